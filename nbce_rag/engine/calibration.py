"""Calibrating how much support is little, on questions of the user's own: prompts are read, none is answered.

`NBCE.calibrate` has the arguments. Where it is known which passages hold an answer (`gold_ids`), each
question is also read over what the search finds without them, so that there are questions that no passage is
about. A ridge logistic of the five numbers tells the two apart. It is found on one half of the questions, and
the scores that others are seen beside are those of the other half, so that they owe nothing to it; with too
few questions for that, or none without an answer, the score is one number, the question's gain (or the
search's score), and all questions count.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..checks import COUNT
from ..decoding.reader import Engine, read_prompts
from ..decoding.support import support_numbers
from ..errors import InputError
from ..evidence.calibration import FALSE_ALARMS, NUMBERS, Calibration, SupportNumbers
from ..evidence.words import fold, word_count
from ..passages import Passage
from ..request import Request

if TYPE_CHECKING:
    from ..index import PassageIndex

__all__ = ["Progress", "calibrate", "settings_of"]

Progress = Callable[[int, int, str], None]
"""Called with (prompts read, prompts in all, the last question)."""

_SEED = 0
_RIDGE = 1.0
_FEWEST_TO_FIT = 10  # questions of each kind from which a logistic is found
_SPARE = 32  # passages that are found beyond k, to stand in for those that are taken out

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class _Case:
    """A question of the user's.

    Attributes:
        question: what is asked.
        gold: ids or files of passages that hold the answer; empty where that is not said.
        answers: right answers, whose passages do not stay where the gold ones are taken out.
        answerable: whether the user says that the passages answer it.
    """

    question: str
    gold: frozenset[str]
    answers: tuple[str, ...]
    answerable: bool

    def is_gold(self, passage: Passage) -> bool:
        source = passage.source or ""
        return passage.id in self.gold or any(
            source == name or source.endswith(f"/{name}") for name in self.gold
        )

    def holds_answer(self, passage: Passage) -> bool:
        text = f" {fold(passage.text)} "
        return any(fold(answer) in text for answer in self.answers)


def calibrate(
    engine: Engine,
    index: PassageIndex,
    questions: Iterable[str | Mapping[str, Any]],
    request_of: Callable[[str, Sequence[Passage]], Request],
    *,
    false_alarms: float,
    k: int,
    search: Mapping[str, Any],
    progress: Progress | None,
) -> Calibration:
    """See `NBCE.calibrate`; `request_of` makes a request of a question and its passages."""
    if not engine.model.can.distributions:
        raise InputError(
            f"The backend of {engine.model.name!r} does not tell what each row expects at first, from which "
            "support is measured, so that it cannot be calibrated; load the model with "
            "backend='transformers' or 'llama.cpp' for it."
        )
    FALSE_ALARMS.check("false_alarms", false_alarms)
    COUNT.check("k", k)
    if isinstance(questions, str):
        raise InputError("questions must be several, not one; put it into a list.")
    cases = [_case(question) for question in questions]
    fewest = math.ceil(1 / false_alarms - 1e-9) - 1
    answerable, removed, given, lost = _over_passages(index, cases, k, search)
    if len(answerable) < fewest:
        besides = f", beside {lost} whose passage was not found" if lost else ""
        raise InputError(
            f"There are {len(answerable)} answerable questions{besides}; with false_alarms={false_alarms:g} "
            f"at least {fewest} are needed. Give more, or allow more false alarms."
        )
    kinds = {"answerable": answerable, "removed": removed, "given": given}
    total, done = sum(map(len, kinds.values())), 0
    numbers: dict[str, list[SupportNumbers]] = {}
    for kind, questions_of_kind in kinds.items():
        numbers[kind] = []
        for case, passages in questions_of_kind:
            numbers[kind].append(_read(engine, request_of(case.question, passages)))
            done += 1
            if progress is not None:
                progress(done, total, case.question)
    lengths = {kind: [word_count(case.question) for case, _ in pairs] for kind, pairs in kinds.items()}
    settings = settings_of(engine, request_of("?", ()), index.embedder_name, k, search)
    halves = {"answerable": _halves(len(answerable)), "given": _halves(len(given))}
    # A question and itself without its passages stay together.
    half_of = {id(case): half for (case, _), half in zip(answerable, halves["answerable"], strict=True)}
    halves["removed"] = np.array([half_of[id(case)] for case, _ in removed], dtype=bool)
    calibration = _fitted(numbers, halves, settings, false_alarms, fewest)
    figures = {"passage_not_found": lost, **calibration.figures}
    if given:
        # Of a question and itself without its passages there is nothing to tell by the length.
        figures["given"]["auroc_of_length"] = _auroc(*(np.array(lengths[x]) for x in ("answerable", "given")))
    return replace(calibration, figures=figures)


def settings_of(
    engine: Engine, request: Request, embedder: str, k: int, search: Mapping[str, Any]
) -> dict[str, Any]:
    """What the numbers depend on, in JSON types; `search` are the options of the search.

    Conditions on passages (`where`, `ids`) are none of it: they change from question to question.
    """
    from ..index.search import SearchRequest

    usual = vars(SearchRequest(1))
    options = request.options
    rule = options.rule
    search = _resolved(k, search)
    return {
        "model": engine.model.name,
        "weights": engine.model.fingerprint,
        "embedder": embedder,
        "k": k,
        "fusion": str(getattr(rule, "label", "") or getattr(rule, "name", "") or type(rule).__name__),
        "style": options.style,
        "passages_per_row": options.passages_per_row,
        "joint_row": options.joint_row,
        "order_labels": options.order_labels,
        "thinking": options.thinking,
        **{
            name: _label(value)
            for name, value in sorted(search.items())
            if name not in ("k", "where", "ids") and value is not None and value != usual.get(name)
        },
    }


def _resolved(k: int, search: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a search for k passages that say whether it has a second look, as `Rag` searches."""
    from ..index.search import SearchRequest

    some = {name: search[name] for name in ("mode", "mmr", "rerank") if search.get(name) is not None}
    return {**search, "look": SearchRequest(k, look=search.get("look"), **some).looks("?")}


def _label(value: Any) -> str:
    """A reranker by its name or its model, so that it is the same in another process; else the value."""
    for name in ("model", "name", "__qualname__"):
        if isinstance(label := getattr(value, name, None), str):
            return label
    return str(value) if isinstance(value, str | int | float | Mapping) else type(value).__qualname__


def _case(question: str | Mapping[str, Any]) -> _Case:
    if isinstance(question, str):
        question = {"question": question}
    text = question.get("question") if isinstance(question, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{question!r} is no question; give texts, or mappings with `question`.")
    answers = question.get("answers")
    lists = {"gold_ids": question.get("gold_ids") or (), "answers": answers or ()}
    for name, value in lists.items():
        if isinstance(value, str) or not all(isinstance(one, str) for one in value):
            raise InputError(f"{name}={value!r} of {text!r} must be a list of texts.")
    # As in a file of questions: no answers are an answer too, that there is none.
    answerable = question.get("answerable", answers is None or bool(answers))
    if not isinstance(answerable, bool):
        raise InputError(f"answerable={answerable!r} of {text!r} must be True or False.")
    return _Case(text, frozenset(lists["gold_ids"]), tuple(lists["answers"]), answerable)


_Pairs = list[tuple[_Case, Sequence[Passage]]]


def _over_passages(
    index: PassageIndex, cases: Sequence[_Case], k: int, search: Mapping[str, Any]
) -> tuple[_Pairs, _Pairs, _Pairs, int]:
    """(answerable over what is found, over that without their passages, unanswerable, not found).

    The first two are of the same questions in the same order, as far as these say which passages are theirs.
    """
    answerable: _Pairs = []
    removed: _Pairs = []
    given: _Pairs = []
    lost = 0
    further = {name: value for name, value in _resolved(k, search).items() if name != "k"}
    for case, hits in zip(cases, index.search_batch([c.question for c in cases], k, **further), strict=True):
        if not case.answerable:
            given.append((case, hits))
        elif hits and (not case.gold or any(map(case.is_gold, hits))):
            answerable.append((case, hits))
        else:
            lost += 1
    with_gold = [case for case, _ in answerable if case.gold]
    results = index.search_batch([case.question for case in with_gold], k + _SPARE, **further)
    for case, hits in zip(with_gold, results, strict=True):
        rest = [p for p in hits if not case.is_gold(p) and not case.holds_answer(p)]
        removed.append((case, rest[:k]))
    # What nothing is found for is answered by the abstention anyway.
    return answerable, [pair for pair in removed if pair[1]], [pair for pair in given if pair[1]], lost


def _read(engine: Engine, request: Request) -> SupportNumbers:
    plan = engine.plan(request)
    _, log_probs, [prompted] = read_prompts(engine, [request], [plan])
    numbers = support_numbers(request.question, request.options.rule, prompted, log_probs)
    assert numbers is not None  # there are passages
    return numbers


def _fitted(
    numbers: Mapping[str, Sequence[SupportNumbers]],
    halves: Mapping[str, NDArray[np.bool_]],
    settings: Mapping[str, Any],
    false_alarms: float,
    fewest: int,
) -> Calibration:
    """Weights from the first halves, scores and figures from the others.

    Args:
        numbers: of questions that are "answerable", of these with their passages "removed", and of those
            "given" as having no answer.
        halves: which of them the weights are found on.
        settings, false_alarms: see `Calibration`.
        fewest: answerable questions that the scores must be of.
    """
    names = [
        name
        for name in NUMBERS
        if all(getattr(one, name) is not None for of_kind in numbers.values() for one in of_kind)
    ]
    x = {kind: _matrix(of_kind, names) for kind, of_kind in numbers.items()}
    fit = {kind: x[kind][halves[kind]] for kind in x}
    without = np.concatenate([fit["removed"], fit["given"]])
    enough = min(len(fit["answerable"]), len(without)) >= _FEWEST_TO_FIT
    if enough and len(x["answerable"]) - len(fit["answerable"]) >= fewest:
        weights = dict(zip(names, _logistic(fit["answerable"], without), strict=True))
        rest = {kind: x[kind][~halves[kind]] for kind in x}
    else:
        weights = {next(name for name in (*NUMBERS[:2], *NUMBERS) if name in names): 1.0}
        rest = x
    w = np.array([weights.get(name, 0.0) for name in names])
    scores = {kind: rest[kind] @ w for kind in rest}
    calibration = Calibration(
        settings, weights, tuple(sorted(scores["answerable"].tolist())), false_alarms, {}
    )
    figures: dict[str, Any] = {
        "answerable": len(x["answerable"]),
        "scored": len(scores["answerable"]),
        "measure": "logistic" if rest is not x else next(iter(weights)),
    }
    for kind in ("removed", "given"):
        if len(scores[kind]):
            figures[kind] = {
                "questions": len(scores[kind]),
                "silenced": float((scores[kind] < calibration.threshold).mean()),
                "auroc": _auroc(scores["answerable"], scores[kind]),
            }
    return replace(calibration, figures=figures)


def _matrix(numbers: Sequence[SupportNumbers], names: Sequence[str]) -> Vector:
    """[questions, numbers]."""
    rows = [[float(getattr(one, name)) for name in names] for one in numbers]
    return np.array(rows, dtype=np.float64).reshape(len(numbers), len(names))


def _halves(count: int) -> NDArray[np.bool_]:
    """Which of the questions the weights are found on: every other one, in random order."""
    order = list(range(count))
    random.Random(_SEED).shuffle(order)
    first = np.zeros(count, dtype=bool)
    first[order[: count // 2]] = True
    return first


def _logistic(answerable: Vector, without: Vector) -> list[float]:
    """Weights of a ridge logistic by Newton's method, in the units of the numbers; the kinds count alike.

    Args:
        answerable, without: [questions, numbers] of either kind.
    """
    x = np.concatenate([answerable, without])
    y = np.repeat([1.0, 0.0], [len(answerable), len(without)])
    share = np.repeat([0.5 / len(answerable), 0.5 / len(without)], [len(answerable), len(without)]) * len(x)
    scale = x.std(0)
    scale[scale < 1e-12] = 1.0
    z = np.column_stack([(x - x.mean(0)) / scale, np.ones(len(x))])
    ridge = np.diag([_RIDGE] * x.shape[1] + [1e-6])
    w = np.zeros(z.shape[1])

    def loss(at: Vector) -> float:
        margin = z @ at
        return float((share * (np.logaddexp(0.0, margin) - y * margin)).sum() + 0.5 * at @ ridge @ at)

    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(z @ w, -500, 500)))
        gradient = z.T @ (share * (p - y)) + ridge @ w
        hessian = (z * (share * p * (1 - p))[:, None]).T @ z + ridge
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-6 and loss(w - size * step) > loss(w):
            size /= 2
        w = w - size * step
        if np.abs(step).max() < 1e-10:
            break
    return [float(value) for value in w[:-1] / scale]


def _auroc(high: Vector, low: Vector) -> float:
    """How often one of `high` is above one of `low`; ties count half."""
    difference = high[:, None] - low[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())
