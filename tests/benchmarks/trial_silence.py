r"""Whether a model knows inside that a passage is about a question and does not answer it.

    python tests/benchmarks/trial_silence.py --questions squad2-questions.jsonl.gz \
        --passages squad2-passages.jsonl.gz --model SmolLM2-135M-Instruct.Q4_1.gguf [--limit 200]

Questions with and without an answer (`"answerable": false`), `--limit` of each, are read with the passage
that they are about (the leading row) and without any (row 0). Two measures were promising in a small trial:

- the direction: hidden states of the prompt's last token at 0.6 of the depth, leading row less row 0, along
  the difference of the two kinds' means;
- the question after the answer: log-odds of yes against no to "Is that what the text says?", likewise.

Passages are parted into halves, so that no passage has questions in both; directions and thresholds are
of one half, AUROCs of the other, with 95% bootstrap intervals over its questions. Row 0 alone and the length
of the question are controls: they see no passage, and what they tell is style.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from nbce_rag.evaluation.data.dataset import load_dataset
from nbce_rag.evaluation.data.questions import Question
from nbce_rag.models.transformers.loading import load_model
from nbce_rag.models.transformers.model import TransformersModel
from nbce_rag.passages import Passage
from nbce_rag.prompts.encoder import PromptEncoder
from nbce_rag.prompts.template import PromptTemplate

DEPTH = 0.6  # of the layers, as in the small trial
ANSWER_TOKENS = 16
PROBE = "Is that what the text says? Answer yes or no."
FALSE_ALARMS = 0.05

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Numbers:
    """What a model tells of a question.

    Attributes:
        lead, without: hidden states of the prompt's last token, with the passage and without any; [width].
        yes_lead, yes_without: log-odds of yes against no after the answer.
        length: tokens of the question.
    """

    lead: Array
    without: Array
    yes_lead: float
    yes_without: float
    length: int


class Reader:
    """Reads prompts of one question with a model of transformers.

    Args:
        model: with a chat template.
    """

    def __init__(self, model: TransformersModel) -> None:
        self._model = model
        self._encoder = PromptEncoder(PromptTemplate.for_chat("short"), model.tokenizer)
        self._layer = round(DEPTH * model.model.config.num_hidden_layers)
        turns = [
            {"role": "user", "content": "Q?"},
            {"role": "assistant", "content": "ANSWER"},
            {"role": "user", "content": PROBE},
        ]
        self._probe = model.tokenizer.encode(model.tokenizer.render(turns).partition("ANSWER")[2])
        yes, no = (
            sorted({model.tokenizer.encode(lead + word)[0] for word in words for lead in ("", " ")})
            for words in (("Yes", "yes"), ("No", "no"))
        )
        self._yes, self._no = yes, no

    def numbers(self, question: str, passage: Passage) -> Numbers:
        encoder = self._encoder
        suffix = encoder.suffix(question)
        ids = encoder.passage_ids(passage.title, passage.text, passage.source, passage.id)
        log_probs, lead, cache = self._read([*encoder.context({0: ids}), *suffix.ids])
        answer: list[int] = []
        while len(answer) < ANSWER_TOKENS:
            token = int(log_probs.argmax())
            if token in self._model.eos_ids:
                break
            answer.append(token)
            log_probs, _, cache = self._read([token], cache)
        probed, _, _ = self._read(self._probe, cache)
        _, without, cache = self._read([*encoder.context({}), *suffix.ids])
        probed_without, _, _ = self._read([*answer, *self._probe], cache)
        length = suffix.question[1] - suffix.question[0]
        return Numbers(lead, without, self._odds(probed), self._odds(probed_without), length)

    @torch.inference_mode()
    def _read(self, ids: Sequence[int], cache: Any = None) -> tuple[torch.Tensor, Array, Any]:
        """Next-token log-probs [V], hidden state of the last token [width], and what was read."""
        out = self._model.model(
            input_ids=torch.tensor([list(ids)], device=self._model.device),
            past_key_values=cache,
            use_cache=True,
            output_hidden_states=True,
            logits_to_keep=1,
        )
        hidden = out.hidden_states[self._layer][0, -1].double().cpu().numpy()
        return out.logits[0, -1].float().log_softmax(-1), hidden, out.past_key_values

    def _odds(self, log_probs: torch.Tensor) -> float:
        return float(log_probs[self._yes].logsumexp(0) - log_probs[self._no].logsumexp(0))


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--questions", required=True)
    parser.add_argument("--passages", required=True)
    parser.add_argument("--model", help="hub id, folder or GGUF file of an instruction-tuned model")
    parser.add_argument("--limit", type=int, default=200, help="questions of each kind")
    parser.add_argument("--seconds", type=float, default=math.inf, help="no question is begun after these")
    options = parser.parse_args(arguments)

    data = load_dataset(options.passages, options.questions)
    reader = Reader(load_model(options.model, optimize=False))
    kinds: list[list[Question]] = [[], []]
    for question in data.sample(seed=0).questions:
        kinds[not question.answers].append(question)
    pairs = list(zip(*(kind[: options.limit] for kind in kinds), strict=False))
    questions: list[Question] = []
    numbers: list[Numbers] = []
    started = time.perf_counter()
    for pair in pairs:
        if time.perf_counter() - started > options.seconds:
            break
        for question in pair:
            numbers.append(reader.numbers(question.text, data.passages[question.gold_ids[0]]))
            questions.append(question)
        if len(questions) % 20 == 0:
            print(f"{len(questions)} questions, {time.perf_counter() - started:.0f} s", flush=True)
    return report(questions, numbers)


def report(questions: Sequence[Question], numbers: Sequence[Numbers]) -> dict[str, float]:
    """Prints, and returns, each measure's AUROC over the half that nothing was fitted to."""
    about = sorted({question.gold_ids[0] for question in questions})
    random.Random(0).shuffle(about)
    first = set(about[::2])
    fitted = np.array([question.gold_ids[0] in first for question in questions])
    answerable = np.array([bool(question.answers) for question in questions])
    lead = np.stack([one.lead for one in numbers])
    without = np.stack([one.without for one in numbers])
    measures = {
        "direction, leading row less row 0": along(lead - without, answerable, fitted),
        "direction, leading row": along(lead, answerable, fitted),
        "direction, row 0 (control)": along(without, answerable, fitted),
        "yes after the answer, less row 0": np.array([one.yes_lead - one.yes_without for one in numbers]),
        "yes after the answer": np.array([one.yes_lead for one in numbers]),
        "tokens of the question (control)": np.array([float(one.length) for one in numbers]),
    }
    print(f"fitted on {fitted.sum()}, {(fitted & answerable).sum()} of them answerable")
    print(f"held out {(~fitted).sum()}, {(~fitted & answerable).sum()} of them answerable")
    for name, scores in measures.items():
        right, wrong = scores[~fitted & answerable], scores[~fitted & ~answerable]
        low, high = interval(right, wrong)
        least = np.quantile(scores[fitted & answerable], FALSE_ALARMS)
        print(
            f"{name:34} AUROC {auroc(right, wrong):.2f} ({low:.2f}-{high:.2f}); silenced at "
            f"{FALSE_ALARMS:.0%}: {(wrong < least).mean():.2f}, by mistake {(right < least).mean():.2f}"
        )
    return {name: auroc(s[~fitted & answerable], s[~fitted & ~answerable]) for name, s in measures.items()}


def along(states: Array, answerable: NDArray[np.bool_], fitted: NDArray[np.bool_]) -> Array:
    """How far each state [N, width] lies along the difference of the fitted kinds' means; [N]."""
    direction = states[fitted & answerable].mean(0) - states[fitted & ~answerable].mean(0)
    return cast(Array, states @ direction)


def auroc(right: Array, wrong: Array) -> float:
    """The share of pairs in which the answerable question has the larger score; a tie is half a pair."""
    difference = right[:, None] - wrong[None, :]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def interval(right: Array, wrong: Array, resamples: int = 2000) -> tuple[float, float]:
    """95% percentile interval of the AUROC, questions of both kinds resampled."""
    draw = np.random.default_rng(0)
    values = [auroc(draw.choice(right, len(right)), draw.choice(wrong, len(wrong))) for _ in range(resamples)]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
