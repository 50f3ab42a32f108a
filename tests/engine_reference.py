"""Lock-step decoding done slowly: every row on its own, whole, without a cache, at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from nbce_rag.decoding.holders import Holders
from nbce_rag.decoding.reader import Engine, Prompted, read_prompts
from nbce_rag.decoding.turn import TurnSampler
from nbce_rag.engine import jobs
from nbce_rag.fusion import FusionState
from nbce_rag.models.model import Rows
from nbce_rag.passages import Passage
from nbce_rag.prompts.binding import Encoders
from nbce_rag.prompts.template import PromptTemplate
from nbce_rag.request import Request

# Nothing stops a random model's answer but its end token and max_tokens.
TEMPLATE = PromptTemplate(
    prefix="Read this.\n", passage="{heading}{text}\n\n", suffix="Question: {question}\nAnswer:"
)
BARE = PromptTemplate(prefix="", passage="{heading}{text}\n\n", suffix="Question: {question}\nAnswer:")
REFUSING = PromptTemplate(
    prefix="", passage="{heading}{text}\n\n", suffix="Question: {question}\nAnswer:", refusal="I don't know."
)

QUESTION = "Who runs the ferry?"
PASSAGES = [
    Passage("The ferry to the island is run by Ada and leaves at noon from the old harbour.", id="ferry"),
    Passage("Fish.", id="fish"),
    Passage("市场八点开门,卖鱼、面包和苹果。", id="market", title="市场"),
    Passage("The museum was built in 1891 and holds 2,350 paintings, " * 3, id="museum"),
]


@dataclass
class Decoded:
    """What decoding gave: one entry a token."""

    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    evidence: list[list[float]] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)


def engine_of(nbce: Any) -> Engine:
    """What an engine reads and decodes with, made of its public parts."""
    encoders = Encoders(nbce.prompt, nbce.model.tokenizer)
    return Engine(nbce.model, encoders, nbce.kv_store, nbce.window)


def read(nbce: Any, request: Request) -> tuple[Rows, Tensor, Prompted]:
    """One request's rows and first log-probs [R, V], and what its prompt told."""
    engine = engine_of(nbce)
    rows, log_probs, [prompted] = read_prompts(engine, [request], [engine.plan(request)])
    return rows, log_probs, prompted


def encode(nbce: Any, text: str) -> list[int]:
    native = nbce.model.tokenizer.native
    ids: list[int] = native(text, add_special_tokens=False)["input_ids"] if text else []
    return ids


def prompt_ids(nbce: Any, question: str, passages: Sequence[Passage]) -> list[int]:
    """Ids of one row that holds these passages, by a plain template, tokenized in parts."""
    template, tokenizer = nbce.prompt, nbce.model.tokenizer.native
    ids = list(tokenizer("")["input_ids"])  # the BOS, if the tokenizer has it
    ids += encode(nbce, template.prefix)
    for passage in passages:
        heading = f"{passage.title}\n" if passage.title else ""
        ids += encode(nbce, template.passage.replace("{heading}", heading).replace("{text}", passage.text))
    return ids + encode(nbce, template.suffix.replace("{question}", question))


def row_prompts(nbce: Any, question: str, passages: Sequence[Passage]) -> list[list[int]]:
    """Ids of every row: none, then each passage alone."""
    return [prompt_ids(nbce, question, [p for p in [one] if p]) for one in (None, *passages)]


@torch.no_grad()
def full_log_probs(model: Any, ids: Sequence[int]) -> Tensor:
    """[T, V] log-probs after each token of one row, from one plain pass."""
    log_probs: Tensor = model(torch.tensor([list(ids)]), use_cache=False).logits[0].float().log_softmax(-1)
    return log_probs


def sequence_log_prob(model: Any, before: Sequence[int], ids: Sequence[int]) -> float:
    """log p(ids | before); a first token that nothing stands before counts nothing."""
    log_probs = full_log_probs(model, [*before, *ids])
    at = len(before)
    return sum(float(log_probs[at + i - 1, token]) for i, token in enumerate(ids) if at + i > 0)


def brute_state(nbce: Any, rows: Sequence[Sequence[int]], question: str, scores: Any = None) -> FusionState:
    """Relevance and refusal of a plain prompt's rows, by plain passes."""
    model, template = nbce.model.model, nbce.prompt
    suffix = template.suffix.replace("{question}", question)
    encoded = nbce.model.tokenizer.native(suffix, add_special_tokens=False, return_offsets_mapping=True)
    start = suffix.index(question)
    spans = encoded["offset_mapping"]
    inside = [i for i, (a, b) in enumerate(spans) if a < start + len(question) and b > start]
    ids = encoded["input_ids"]
    likelihoods = []
    for row in rows:
        context = list(row[: len(row) - len(ids)])
        before = context + ids[: inside[0]]
        likelihoods.append(sequence_log_prob(model, before, ids[inside[0] : inside[-1] + 1]))
    refusal = None
    if template.refusal:
        said = encode(nbce, " " + template.refusal)
        log_probs = torch.tensor([[sequence_log_prob(model, row, said) for row in rows[1:]]])
        refusal = log_probs.exp()
    values = torch.tensor(likelihoods)
    return FusionState(
        scores=None if scores is None else torch.tensor([scores]),
        relevance=(values[1:] - values[0])[None],
        refusal=refusal,
    )


def slow_decode(
    nbce: Any,
    rows: Sequence[Sequence[int]],
    rule: Any,
    steps: int,
    state: FusionState,
    choose: Callable[[Tensor], int] | None = None,
) -> Decoded:
    """Greedy decoding of one question; `choose` may pick another token from the fused log-probs [V]."""
    grown = [list(row) for row in rows]
    out = Decoded()
    for _ in range(steps):
        log_probs = torch.stack([full_log_probs(nbce.model.model, row)[-1] for row in grown])
        if len(grown) > 1:
            fused, weights = rule.fuse(log_probs[None], state)
            fused, weights = fused[0].log_softmax(-1), weights[0]
        else:
            fused, weights = log_probs[0], torch.zeros(0)
        token = int(fused.argmax()) if choose is None else choose(fused)
        if len(grown) > 1:
            p = log_probs[1:, token].exp() * weights
            out.gains.append(float(p.sum().log() - log_probs[0, token]))
            evidence = p / p.sum()
            state.evidence = evidence[None]
            out.evidence.append(evidence.tolist())
        out.tokens.append(token)
        out.log_probs.append(float(fused[token]))
        for row in grown:
            row.append(token)
        if token in nbce.model.eos_ids:
            break
    return out


def assert_shared_evidence(
    nbce: Any,
    answer: Any,
    slow: Decoded,
    question: str,
    passages: Sequence[Passage],
    members: Sequence[int],
) -> None:
    """Whether an answer is that of slow decoding, where the last row reads several passages: what it says
    counts for those of them that hold the words."""
    said = [token.id for token in answer.tokens]
    [first, *_] = [i for i in range(len(slow.tokens)) if slow.tokens[i : i + len(said)] == said]
    encoder = nbce._engine.encoder_of(nbce.request(question))
    holders = Holders([encoder.passage_ids(passage.title, passage.text) for passage in passages])
    for token, log_prob, evidence in zip(
        answer.tokens, slow.log_probs[first:], slow.evidence[first:], strict=False
    ):
        assert token.logprob == pytest.approx(log_prob, abs=1e-4)
        own, together = list(evidence[: len(passages)]), evidence[len(passages)]
        held = holders.push(token.id)
        heirs = [member for member in members if member in held] or list(members)
        total = sum(own[member] for member in heirs)
        weights = [w + together * w / total if member in heirs else w for member, w in enumerate(own)]
        assert token.weights == pytest.approx(weights, abs=1e-4)


def greedy_by_transformers(nbce: Any, ids: Sequence[int], max_tokens: int) -> list[int]:
    """What `generate` of transformers says after a prompt, its end token included."""
    out = nbce.model.model.generate(
        torch.tensor([list(ids)]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        max_new_tokens=max_tokens,
        pad_token_id=2,
    )
    new: list[int] = out[0, len(ids) :].tolist()
    return new


def record_samplers(monkeypatch: pytest.MonkeyPatch) -> list[TurnSampler]:
    """The samplers that generation makes from now on; their `ids` hold blanks and end tokens too."""
    made: list[TurnSampler] = []
    original: Any = jobs._sampler

    def sampler(*args: Any) -> TurnSampler:
        made.append(original(*args))
        return made[-1]

    monkeypatch.setattr(jobs, "_sampler", sampler)
    return made


def assert_same_answer(one: Any, other: Any, *, tolerance: float = 1e-4) -> None:
    """Equal texts and tokens; equal numbers within the tolerance."""
    assert one.text == other.text
    assert one.finish_reason == other.finish_reason
    assert [t.id for t in one.tokens] == [t.id for t in other.tokens]
    assert [(t.start, t.end, t.text) for t in one.tokens] == [(t.start, t.end, t.text) for t in other.tokens]
    for a, b in zip(one.tokens, other.tokens, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=tolerance)
        assert a.weights == pytest.approx(b.weights, abs=tolerance)
        assert a.gain == pytest.approx(b.gain, abs=10 * tolerance)
    assert one.grounding == (None if other.grounding is None else pytest.approx(other.grounding, abs=1e-3))
    assert [c.passage_id for c in one.citations] == [c.passage_id for c in other.citations]
    assert one.usage.row_tokens == other.usage.row_tokens
    assert one.usage.generated_tokens == other.usage.generated_tokens
