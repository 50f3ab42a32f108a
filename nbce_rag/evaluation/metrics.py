"""Scores of answers and of retrieval, and how sure they are.

English answers are compared as in SQuAD's scorer (Rajpurkar et al. 2016): without case, ASCII
punctuation, articles and runs of blanks. Answers with Chinese or Japanese characters are compared
character by character, without blanks and any punctuation. Answers to questions with keys are scored as
long answers (`nbce_rag.evaluation.long_metrics`).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, TypeAlias

from .long_metrics import Keys, groups_found, precision, repetition, word_count

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "LONG_SCORES",
    "RECALL_AT",
    "Figures",
    "answer_found",
    "bootstrap_ci",
    "exact_match",
    "f1",
    "is_cjk",
    "is_silent",
    "normalise",
    "paired_differences",
    "retrieval_scores",
    "score_method",
    "score_row",
]

RECALL_AT = (1, 3, 5, 10)
SCORES = ("answer_found", "exact_match", "f1")
LONG_SCORES = ("keys_share", "identifier_precision", "repetition", "words")
"""What lines about questions with keys have beside the others."""
RESAMPLES = 10_000
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
Row: TypeAlias = Mapping[str, Any]
Figures: TypeAlias = dict[str, Any]
"""Figures by name, in JSON types; some are mappings themselves."""


def is_cjk(*texts: str) -> bool:
    """Whether any of the texts has Chinese or Japanese characters, so that blanks do not part words."""
    return any(_CJK.search(text) for text in texts)


def normalise(text: str, *, characters: bool = False) -> str:
    """What is left to compare: words with single blanks, or characters without blanks."""
    if characters:
        folded = unicodedata.normalize("NFKC", text).casefold()
        return "".join(c for c in folded if not c.isspace() and unicodedata.category(c)[0] != "P")
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def answer_found(answer: str, golds: Sequence[str], *, characters: bool = False) -> bool:
    """Whether a gold answer stands in the answer, as whole words (or as characters)."""
    text = normalise(answer, characters=characters)
    for gold in golds:
        part = normalise(gold, characters=characters)
        if part and (part in text if characters else f" {part} " in f" {text} "):
            return True
    return False


def exact_match(answer: str, golds: Sequence[str], *, characters: bool = False) -> bool:
    """Whether the answer is a gold answer."""
    text = normalise(answer, characters=characters)
    return any(text == normalise(gold, characters=characters) for gold in golds)


def f1(answer: str, golds: Sequence[str], *, characters: bool = False) -> float:
    """Harmonic mean of precision and recall over words (or characters), for the gold answer it fits best."""
    return max((_f1(answer, gold, characters) for gold in golds), default=0.0)


def _f1(answer: str, gold: str, characters: bool) -> float:
    texts = [normalise(text, characters=characters) for text in (answer, gold)]
    one, other = (Counter(text) if characters else Counter(text.split()) for text in texts)
    if not one or not other:
        return float(one == other)
    common = (one & other).total()
    return 2 * common / (one.total() + other.total())


def score_row(row: Row, refusal: str | None = None) -> dict[str, float | None]:
    """`answer_found`, `exact_match` and `f1` of one line of the log, each in [0, 1].

    A question without gold answers is answered rightly by an abstention, the prompt's refusal, or nothing.

    A question with keys has its answer found when the answer holds a string of each group, and is scored by
    `keys_share` (of the groups), `identifier_precision`, `repetition` and `words` too. What such an answer
    has no value for is None: exact match and F1 without gold answers, precision without identifiers, all
    but the keys where the passages did not fit.
    """
    text, golds = row["answer"], row["answers"]
    if keys := row.get("keys"):
        return _score_long(row, keys)
    if row.get("error"):
        return dict.fromkeys(SCORES, 0.0)
    characters = is_cjk(row["question"], *golds)
    if not golds:
        return dict.fromkeys(SCORES, float(is_silent(row, refusal)))
    return {
        "answer_found": float(answer_found(text, golds, characters=characters)),
        "exact_match": float(exact_match(text, golds, characters=characters)),
        "f1": f1(text, golds, characters=characters),
    }


def _score_long(row: Row, keys: Keys) -> dict[str, float | None]:
    text, golds = row["answer"], row["answers"]
    scores: dict[str, float | None] = dict.fromkeys((*SCORES, *LONG_SCORES))
    share = groups_found(text, keys)
    scores |= {"answer_found": float(share == 1), "keys_share": share}
    characters = is_cjk(row["question"], *golds)
    if golds:
        scores["exact_match"] = float(exact_match(text, golds, characters=characters))
        scores["f1"] = f1(text, golds, characters=characters)
    if not row.get("error"):
        scores["identifier_precision"] = precision(row["identifiers"].values())
        scores |= {"repetition": repetition(text), "words": float(word_count(text))}
    return scores


def is_silent(row: Row, refusal: str | None = None) -> bool:
    """Whether a line's answer is an abstention, the prompt's refusal, or nothing."""
    characters = is_cjk(row["question"], *row["answers"])
    text = normalise(row["answer"], characters=characters)
    is_refusal = text == normalise(refusal or "", characters=characters)
    return not text or is_refusal or bool(row["finish_reason"] == "no_evidence")


def bootstrap_ci(values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> list[float] | None:
    """95% percentile interval of the mean, by resampling the questions.

    Values of equal length are resampled alike, so that the interval of a difference question by question
    is that of paired samples.

    Returns:
        [low, high], or None without values.
    """
    import numpy as np

    if not len(values):
        return None
    means = (
        _resample_counts(len(values), seed, resamples) @ np.asarray(values, dtype=np.float64) / len(values)
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return [float(low), float(high)]


@lru_cache(maxsize=2)
def _resample_counts(length: int, seed: int, resamples: int) -> NDArray[np.float32]:
    """[resamples, length] how often each value is in each resample; the same for all scores of a run."""
    import numpy as np

    random = np.random.default_rng(seed)
    counts = np.empty((resamples, length), dtype=np.float32)
    for row in counts:
        row[:] = np.bincount(random.integers(0, length, length), minlength=length)
    return counts


def retrieval_scores(rows: Sequence[Row]) -> dict[str, float | None]:
    """Mean recall of gold passages among the first 1, 3, 5 and 10, and mean reciprocal rank of the first.

    Args:
        rows: each with `gold_ranks`, the place (from 1) of each gold passage or None where it was not
            found; questions without gold passages do not count.
    """
    ranks = [row["gold_ranks"] for row in rows if row["gold_ranks"]]
    scores = {
        f"recall@{k}": _mean([sum(r is not None and r <= k for r in row) / len(row) for row in ranks])
        for k in RECALL_AT
    }
    first = [min((r for r in row if r is not None), default=None) for row in ranks]
    return scores | {"mrr": _mean([0.0 if rank is None else 1 / rank for rank in first])}


def score_method(
    rows: Sequence[Row], baseline: Sequence[Row] | None = None, *, refusal: str | None = None, seed: int = 0
) -> Figures:
    """All figures of one method.

    Args:
        rows: its lines of the log.
        baseline: the lines of the method to compare with, question by question; None compares with none.
        refusal: the reply that the prompt asks for when there is no answer.
        seed: of the intervals.
    """
    scored = {row["question_id"]: score_row(row, refusal) for row in rows}
    values = _columns(scored.values())
    figures: Figures = {"questions": len(rows)}
    figures |= {name: _mean(column) for name, column in values.items()}
    figures["ci95"] = {name: bootstrap_ci(column, seed=seed) for name, column in values.items()}
    if baseline is not None:
        figures["difference_to_concat"] = paired_differences(rows, baseline, refusal=refusal, seed=seed)
    figures |= _citations(rows, {id_: scores["answer_found"] == 1 for id_, scores in scored.items()})
    figures |= _standing(rows, {id_ for id_, scores in scored.items() if scores["answer_found"] == 1})
    ran = [row for row in rows if not row.get("error")]
    figures["abstained"] = _mean([float(is_silent(row, refusal)) for row in ran])
    figures["did_not_fit"] = len(rows) - len(ran)
    times = [row["ttft_s"] for row in ran if row["ttft_s"] is not None]
    figures["ttft_s"] = median(times) if times else None
    figures["seconds_per_question"] = median(row["seconds"] for row in ran) if ran else None
    figures["prompt_tokens"] = _mean([row["prompt_tokens"] for row in ran])
    figures["cached_tokens"] = _mean([row["cached_tokens"] for row in ran])
    return figures


def paired_differences(
    rows: Sequence[Row], baseline: Sequence[Row], *, refusal: str | None = None, seed: int = 0
) -> dict[str, Figures]:
    """One method's scores minus another's, question by question.

    Args:
        rows: lines of the log of the one.
        baseline: lines of the other; questions that only one of them was asked do not count, nor for a
            score those for which one has no value.
        refusal: as in `score_method`.
        seed: of the intervals.

    Returns:
        `mean` and `ci95` (paired bootstrap, None without questions) of each score.
    """
    one, other = (
        {row["question_id"]: score_row(row, refusal) for row in lines} for lines in (rows, baseline)
    )
    both = [id_ for id_ in one if id_ in other]
    values = _columns([_minus(one[id_], other[id_]) for id_ in both])
    return {
        name: {"mean": _mean(column), "ci95": bootstrap_ci(column, seed=seed)}
        for name, column in values.items()
    }


def _columns(scores: Iterable[Mapping[str, float | None]]) -> dict[str, list[float]]:
    """Values of each score, those that there are; long answers' scores only where a question has keys."""
    lines = list(scores)
    names = (*SCORES, *LONG_SCORES) if any(LONG_SCORES[0] in line for line in lines) else SCORES
    return {name: [value for line in lines if (value := line.get(name)) is not None] for name in names}


def _minus(one: Mapping[str, float | None], other: Mapping[str, float | None]) -> dict[str, float | None]:
    """Differences of the scores that both have."""
    return {
        name: None if value is None or (base := other[name]) is None else value - base
        for name, value in one.items()
    }


def _citations(rows: Sequence[Row], right: Mapping[str, bool]) -> Figures:
    """Citations against gold passages; nothing for a method that has cited nothing at all."""
    with_gold = [row for row in rows if row["gold_ids"]]
    if not any(row["cited"] for row in with_gold):
        empty = {"leading": None, "any": None}
        return {
            "citation_precision": empty,
            "citation_recall": dict(empty),
            "leading_is_gold_when_right": None,
        }
    pairs = {
        "leading": [({row["leading"]} - {None}, set(row["gold_ids"])) for row in with_gold],
        "any": [(set(row["cited"]), set(row["gold_ids"])) for row in with_gold],
    }
    right_leads = [row["leading"] in row["gold_ids"] for row in with_gold if right[row["question_id"]]]
    return {
        "citation_precision": {
            name: _mean([len(ids & gold) / len(ids) for ids, gold in sets if ids])
            for name, sets in pairs.items()
        },
        "citation_recall": {
            name: _mean([len(ids & gold) / len(gold) for ids, gold in sets]) for name, sets in pairs.items()
        },
        "leading_is_gold_when_right": _mean([float(lead) for lead in right_leads]),
    }


def _standing(rows: Sequence[Row], right: set[str]) -> Figures:
    """Numbers and names inside of citations that stand in the passages cited there."""
    counts = [(row["question_id"], row["cited_words"]) for row in rows if row.get("cited_words")]
    total, standing, verbatim = (
        sum(words[name] for _, words in counts) for name in ("all", "standing", "verbatim")
    )
    return {
        "words_standing": standing / total if total else None,
        "marked_words_verbatim": verbatim / standing if standing else None,
        "right_unmarked": sum(
            id_ in right and words["all"] > 0 == words["standing"] for id_, words in counts
        ),
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
