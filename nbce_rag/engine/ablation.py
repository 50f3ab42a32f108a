"""Exact leave-one-out: the rows of an answer read it once, and are fused again without those of a passage.

Rows know nothing of each other, so nothing is read again. What the rule may know beforehand is what it would
know without the passage: scores are filled in from the others, and the prior is that of the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..answers.answer import Answer
from ..answers.joined import union_of
from ..decoding.detokenizer import TextBuilder
from ..decoding.forced import Onlooker, read_text
from ..decoding.reader import Engine, Prompted, read_prompts
from ..decoding.spelling import spell
from ..errors import InputError
from ..evidence.ablation import Ablation
from ..evidence.evidence import Citation
from ..evidence.spelling import Spelling
from ..fusion import FusionRule, FusionState, Rule
from ..request import Request
from ..values import shown

__all__ = ["ablate"]


def ablate(engine: Engine, answer: Answer) -> Answer:
    """An answer with what becomes of its likelihood without each of its passages.

    The rows are the answer's own, those of sentences included: they stay as they are where another passage is
    left out, and go with their own passage. A row of several passages (`Posterior.together` and `extract`) is
    not among them: what it would be without one of these, nobody has read. Parts of a question have rows of
    their own, so that what a passage is worth to the whole answer is the sum of what it is worth to them.

    Args:
        engine: that gave the answer, or one like it.
        answer: decoded or attributed; its tokens are read again as they stand.

    Raises:
        InputError: the answer knows nothing of its request, says nothing, comes behind a thought, was read
            with several passages in a row, or was given by another model, whose tokens are others; or a
            backend that cannot.
    """
    if not isinstance(answer, Answer):
        raise InputError(f"ablate takes an Answer, got {type(answer).__name__}.")
    engine.check_steps("ablate an answer")
    request = answer.request
    if answer.parts:
        return _joined(engine, answer)
    if not answer.tokens or not answer.passages:
        raise InputError(
            f"There is nothing to ablate: the answer has {len(answer.tokens)} tokens of its own and "
            f"{len(answer.passages)} passages."
        )
    if request is None or answer.spelling is None:
        raise InputError(
            "The answer does not know what it is the answer to: it was made by hand, copied or pickled; "
            "ablate what NBCE.attribute(question, passages, answer.text) returns."
        )
    if answer.thought or answer.usage.thought_tokens:  # of an empty one there are marks
        raise InputError("The answer comes behind a thought, which no row has read; answer without thinking.")
    spelling = _spelling(engine, request, answer)
    ids = spelling.ids
    options = request.options.updated(json_schema=None, regex=None)
    if isinstance(options.rule, FusionRule):
        options = options.updated(fusion=options.rule.apart())
    options = options.updated(max_tokens=max(options.max_tokens, len(ids)))
    request = replace(request, passages=answer.passages, options=options)
    plan = engine.plan(request)
    if any(len(row.members) > 1 for row in plan.rows):
        raise InputError(
            "The answer was read with several passages in a row, which cannot be left out one by one; answer "
            "with passages_per_row=1 and without joint_row."
        )
    rows, log_probs, [prompted] = read_prompts(engine, [request], [plan])
    rule = options.rule.untruncated() if isinstance(options.rule, FusionRule) else options.rule
    everything = frozenset(range(len(answer.passages)))
    cited_ids = {one.passage_id for citation in answer.citations for one in citation.supports}
    cited = frozenset(place for place, one in enumerate(answer.passages) if one.id in cited_ids)
    without = [everything - {place} for place in range(len(answer.passages))]
    onlookers = {
        some: _onlooker(prompted, rule, some)
        for some in (everything, frozenset[int](), *without, *([cited] if cited else []))
    }
    read_text(rows, log_probs, ids, list(onlookers.values()), engine.pass_tokens)
    by_token = {some: [one.step.log_prob for one in seen.steps] for some, seen in onlookers.items()}
    whole = {some: math.fsum(values) for some, values in by_token.items()}
    ablation = Ablation(
        log_prob=whole[everything],
        log_prob_without_passages=whole[frozenset()],
        necessity=tuple(whole[everything] - whole[some] for some in without),
        citation_necessity=tuple(
            tuple(_sum(by_token[everything], at) - _sum(by_token[some], at) for some in without)
            for at in (_tokens_of(citation, spelling) for citation in answer.citations)
        ),
        sufficiency=whole[cited] - whole[everything] if cited else None,
    )
    return replace(answer, ablation=ablation)


def _joined(engine: Engine, answer: Answer) -> Answer:
    """An answer with parts, these and all of it ablated; parts that abstain say nothing."""
    parts = [ablate(engine, part) if part.tokens and part.passages else part for part in answer.parts]
    _, places = union_of([part.passages for part in parts])
    necessity = [0.0] * len(answer.passages)
    by_citation: list[tuple[float, ...]] = []
    some: list[Ablation] = []
    for part, mine in zip(parts, places, strict=True):
        if part.ablation is None:
            continue
        some.append(part.ablation)
        by_citation += [_placed(one, mine, len(necessity)) for one in part.ablation.citation_necessity]
        worth = _placed(part.ablation.necessity, mine, len(necessity))
        necessity = [a + b for a, b in zip(necessity, worth, strict=True)]
    if not some:
        raise InputError("There is nothing to ablate: no part of the answer has tokens of its own.")
    enough = [one.sufficiency for one in some if one.sufficiency is not None]
    ablation = Ablation(
        log_prob=math.fsum(one.log_prob for one in some),
        log_prob_without_passages=math.fsum(one.log_prob_without_passages for one in some),
        necessity=tuple(necessity),
        citation_necessity=tuple(by_citation),
        sufficiency=math.fsum(enough) if enough else None,
    )
    return replace(answer, parts=tuple(parts), ablation=ablation)


def _placed(values: Sequence[float], places: Sequence[int], count: int) -> tuple[float, ...]:
    """What each passage of a part is worth, in its place among all; the others are worth nothing to it."""
    placed = [0.0] * count
    for place, value in zip(places, values, strict=True):
        placed[place] += value
    return tuple(placed)


def _onlooker(prompted: Prompted, rule: Rule, passages: frozenset[int]) -> Onlooker:
    """The rule over the rows of some of the passages."""
    plan = prompted.plan
    places = [place for place, row in enumerate(plan.rows) if set(row.members) <= passages]
    columns = torch.tensor([place - 1 for place in places[1:]], dtype=torch.long)
    state = prompted.state

    def part(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.index_select(1, columns.to(values.device))

    scores = None
    if state.scores is not None and len(places) > 1:
        scores = replace(plan, rows=tuple(plan.rows[place] for place in places)).scores()
        scores = None if scores is None else scores.to(state.scores.device)
    return Onlooker(
        tuple(prompted.rows[place] for place in places),
        rule,
        FusionState(scores=scores, relevance=part(state.relevance), refusal=part(state.refusal)),
    )


def _spelling(engine: Engine, request: Request, answer: Answer) -> Spelling:
    """The tokens of the answer as the engine reads them; a given text is spelled as its model would."""
    tokenizer, spelling = engine.model.tokenizer, answer.spelling
    if answer.finish_reason == "given" or spelling is None:
        return spell(engine.encoder_of(request), tokenizer, answer.text)
    text = TextBuilder(tokenizer)
    if max(spelling.ids) < engine.model.vocab_size:
        for token in spelling.ids:
            text.push(token)
        text.finish()
    if not text.text.startswith(answer.text):
        raise InputError(
            f"To {engine.model.name!r} the tokens of the answer {shown(answer.text)} spell another text, so "
            "another model gave it, or it was changed; ablate it with the engine that gave it, or what "
            "NBCE.attribute(question, passages, answer.text) returns."
        )
    return spelling


def _tokens_of(citation: Citation, spelling: Spelling) -> list[int]:
    """The tokens that a citation's stretch takes part in, by their places among all that were read."""
    return [
        place
        for place, (start, end) in enumerate(spelling.spans)
        if start < citation.end and end > citation.start and start < end
    ]


def _sum(values: Sequence[float], places: Sequence[int]) -> float:
    return math.fsum(values[place] for place in places)
