"""How much support is little: the quantile's guarantee, the numbers, the file, and what `Rag` makes of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_reference import read
from hypothesis import given, settings
from hypothesis import strategies as st

from nbce_rag.decoding.support import support_numbers
from nbce_rag.engine.calibration import _auroc, _logistic
from nbce_rag.engine.rag import Rag
from nbce_rag.errors import InputError, NbceWarning, ReadError
from nbce_rag.evidence.calibration import NUMBERS, Calibration, SupportNumbers
from nbce_rag.fusion import Posterior
from nbce_rag.index import PassageIndex
from nbce_rag.index.folder import IndexFolder
from nbce_rag.passages import Passage

THINGS = [f"thing{i}" for i in range(24)]


def one_hot_things(texts: list[str]) -> Any:
    """Each thing has a dimension of its own; whatever names none has a bit of all."""
    vectors = np.full((len(texts), len(THINGS) + 2), 0.1, dtype=np.float32)
    for vector, text in zip(vectors, texts, strict=True):
        for word in text.replace("?", " ").split():
            if word in THINGS:
                vector[THINGS.index(word)] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_gain(scores: list[float], false_alarms: float = 0.05) -> Calibration:
    return Calibration({}, {"question_gain": 1.0}, tuple(sorted(scores)), false_alarms)


@given(
    st.lists(st.integers(-3, 3) | st.floats(-3, 3), min_size=2, max_size=60),
    st.sampled_from([0.05, 0.1, 0.2, 1 / 3, 0.5]) | st.floats(0.02, 0.5),
)
def test_of_questions_like_these_no_more_are_silenced_than_was_said(
    scores: list[float], false_alarms: float
) -> None:
    """Whichever of n + 1 questions comes last, at most x (n + 1) of these orders silence it."""
    silenced = 0
    for i, score in enumerate(scores):
        support = by_gain(scores[:i] + scores[i + 1 :]).support(SupportNumbers(question_gain=score))
        assert support is not None
        assert 0 < support <= 1
        silenced += support <= false_alarms
    assert silenced <= false_alarms * len(scores) + 1e-9


@given(
    st.lists(st.floats(-9, 9), min_size=1, max_size=50), st.floats(-9, 9), st.sampled_from([0.05, 0.1, 0.25])
)
def test_the_threshold_is_the_support_that_is_silenced(
    scores: list[float], score: float, false_alarms: float
) -> None:
    if len(scores) < 1 / false_alarms - 1:
        return
    calibration = by_gain(scores, false_alarms)
    k = math.floor(false_alarms * (len(scores) + 1) + 1e-9)
    assert calibration.threshold == sorted(scores)[k - 1]
    support = calibration.support(SupportNumbers(question_gain=score))
    assert support is not None
    assert (support <= false_alarms) == (score < calibration.threshold)


def test_nineteen_questions_do_for_one_in_twenty() -> None:
    calibration = by_gain([float(i) for i in range(19)])
    assert calibration.threshold == 0.0
    assert calibration.support(SupportNumbers(question_gain=-1.0)) == 0.05
    assert calibration.support(SupportNumbers(question_gain=0.0)) == 0.1
    assert calibration.support(SupportNumbers(question_gain=99.0)) == 1.0
    assert calibration.support(SupportNumbers(sureness=1.0)) is None
    assert calibration.support(SupportNumbers(question_gain=math.nan)) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_logistic_is_where_its_loss_is_flat(seed: int) -> None:
    """Against the gradient of its loss, written out; and in any units of the numbers."""
    rng = np.random.default_rng(seed)
    high, low = rng.normal(1, 1, (30, 3)), rng.normal(0, 2, (12, 3))
    weights = np.array(_logistic(high, low))
    x = np.concatenate([high, low])
    scale = x.std(0)
    z = (x - x.mean(0)) / scale
    w = weights * scale
    share = [42 * 0.5 / 30] * 30 + [42 * 0.5 / 12] * 12
    y = [1.0] * 30 + [0.0] * 12
    # The intercept is free: where it is right, either kind is missed alike.
    best = min(
        (abs(sum(s * (1 / (1 + math.exp(-m - b)) - t) for s, m, t in zip(share, z @ w, y, strict=True))), b)
        for b in np.linspace(-4, 4, 4001)
    )[1]
    errors = np.array(
        [s * (1 / (1 + math.exp(-m - best)) - t) for s, m, t in zip(share, z @ w, y, strict=True)]
    )
    np.testing.assert_allclose(z.T @ errors + w, 0, atol=0.05)
    units = np.array([1000.0, 0.001, 1.0])
    np.testing.assert_allclose(np.array(_logistic(high * units, low * units)) * units, weights, rtol=1e-6)


def test_the_logistic_of_numbers_that_part_or_never_change_is_finite() -> None:
    high, low = np.array([[5.0, 1.0]] * 20), np.array([[-5.0, 1.0]] * 20)
    first, second = _logistic(high, low)
    assert 0 < first < 100
    assert second == pytest.approx(0)


def test_auroc_by_hand() -> None:
    assert _auroc(np.array([2.0, 1.0]), np.array([0.0, 1.0, 3.0])) == pytest.approx(
        (1 + 1 + 0 + 1 + 0.5 + 0) / 6
    )


def test_the_five_numbers_by_hand(make_nbce: Callable[..., Any]) -> None:
    nbce = make_nbce(fusion=Posterior(focus=0.0))
    passages = [Passage("The museum was built.", score=0.2), Passage("The FERRY is run by Ada.", score=0.7)]
    request = nbce.request("Who runs the ferry?", passages)
    _, log_probs, prompted = read(nbce, request)
    numbers = support_numbers(request.question, request.options.rule, prompted, log_probs)
    assert numbers is not None
    assert prompted.state.relevance is not None
    relevance = prompted.state.relevance[0].double()
    logits = torch.tensor([0.2, 0.7]) / 0.1 + 0.3 * relevance
    if prompted.state.refusal is not None:
        logits = logits + torch.log1p(-prompted.state.refusal[0].clamp(max=1 - 1e-6))
    prior = logits.double().softmax(-1)
    p = log_probs.double().exp()
    lead = int(prior.argmax())
    mixture = prior @ p[1:]
    assert numbers.question_gain == pytest.approx(float(relevance.max()), abs=1e-4)
    assert numbers.retrieval_score == 0.7
    assert numbers.question_words == (2 / 4, 1 / 4)[1 - lead]  # "the", "ferry"; "the"
    assert numbers.sureness == pytest.approx(float((p[lead + 1] * p[lead + 1].log()).sum()), abs=1e-3)
    divergence = float((mixture * (mixture.log() - p[0].log())).sum())
    assert numbers.divergence == pytest.approx(divergence, abs=1e-3)
    answer = nbce.answer("Who runs the ferry?", passages, max_tokens=2)
    assert answer.support is None
    assert answer.support_numbers is not None
    assert astuple(answer.support_numbers) == pytest.approx(astuple(numbers), abs=1e-3)
    with pytest.warns(NbceWarning, match="No passages"):
        assert nbce.answer("Who?", max_tokens=2).support_numbers is None
    plain = nbce.answer("Who?", ["Ada."], fusion="min-entropy", max_tokens=2).support_numbers
    assert (plain.question_gain, plain.retrieval_score) == (None, None)


# ---------------------------------------------------------------------------------------------------------
# The file


def an_index(folder: Path) -> Path:
    with PassageIndex.create(folder, one_hot_things) as index:
        index.add([Passage(f"The {thing} is made of {thing} wood.", id=thing) for thing in THINGS])
    return folder


def questions(count: int = 24, **more: Any) -> list[dict[str, Any]]:
    return [
        {"question": f"What is {thing} made of?", "gold_ids": [thing], **more} for thing in THINGS[:count]
    ]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\xff\xfe",
        b"7",
        b"{}",
        b"[" * 100_000,
        {"format": 2},
        {"sha256": "0" * 64},
        {"calibration": {}},
        {"calibration": {"scores": ["low"]}},
        {"calibration": {"scores": [3.0, 1.0]}},
        {"calibration": {"scores": []}},
        {"calibration": {"scores": None}},
        {"calibration": {"weights": {"luck": 1.0}}},
        {"calibration": {"weights": {}}},
        {"calibration": {"weights": {"sureness": "much"}}},
        {"calibration": {"false_alarms": 0}},
        {"calibration": {"false_alarms": "few"}},
        {"calibration": {"settings": 7}},
    ],
)
def test_a_file_that_was_changed_is_refused(tmp_path: Path, damage: Any) -> None:
    from nbce_rag.evidence.calibration import _hash

    file = tmp_path / "calibration.json"
    calibration = by_gain([float(i) for i in range(19)])
    calibration.write(file)
    assert Calibration.read(file) == calibration
    if isinstance(damage, bytes):
        file.write_bytes(damage)
    else:
        whole = json.loads(file.read_text())
        value = whole["calibration"] | damage.get("calibration", {})
        if damage == {"calibration": {}}:
            value = {}
        # With a checksum that fits, so that what it holds is looked at too.
        whole |= {"calibration": value, "sha256": _hash(value)} | {
            name: new for name, new in damage.items() if name != "calibration"
        }
        file.write_text(json.dumps(whole))
    with pytest.raises(ReadError, match=r"cannot be used \(.*calibrate again"):
        Calibration.read(file)


def test_a_bit_that_flipped_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    by_gain([float(i) for i in range(19)]).write(file)
    file.write_text(file.read_text().replace("17.0", "17.5"))
    with pytest.raises(ReadError, match="checksum"):
        Calibration.read(file)
    with pytest.raises(ReadError, match="cannot be used"):
        Calibration.read(tmp_path / "none.json")


# ---------------------------------------------------------------------------------------------------------
# Calibrating


def test_from_questions_to_silence(make_nbce: Callable[..., Any], tmp_path: Path) -> None:
    path, nbce = an_index(tmp_path / "index"), make_nbce(max_tokens=3)
    told: list[tuple[int, int, str]] = []
    with PassageIndex.open(path, one_hot_things) as index:
        plain = Rag(index, nbce)
        assert plain.ask("What is thing1 made of?", k=3).support is None
        many = [*questions(), {"question": "Who is the mayor of Orme and why?", "answerable": False}]
        calibration = nbce.calibrate(
            many, index, false_alarms=0.25, k=3, progress=lambda *how_far: told.append(how_far)
        )
        assert [done for done, _, _ in told] == list(range(1, 50))
        assert told[-1] == (49, 49, "Who is the mayor of Orme and why?")
        assert Calibration.read(IndexFolder(path).calibration) == calibration
        figures = calibration.figures
        assert (figures["answerable"], figures["scored"], figures["measure"]) == (24, 12, "logistic")
        assert set(calibration.weights) == set(NUMBERS)
        assert figures["removed"]["questions"] == 12
        assert figures["removed"]["auroc"] > 0.9  # the words of the question are gone with its passage
        assert figures["given"]["auroc_of_length"] == 0.0
        rag = Rag(index, nbce)
        answer = rag.ask("What is thing1 made of?", k=3)
        assert answer.support is not None
        assert 0 < answer.support <= 1
        assert answer.to_dict()["support"] == answer.support
        loud = rag.ask("What is thing1 made of?", k=3, abstain_below=max(0.0, answer.support - 1e-6))
        assert (loud.text, loud.finish_reason) == (answer.text, answer.finish_reason)
        silent = rag.ask("What is thing1 made of?", k=3, abstain_below=answer.support)
        assert silent.finish_reason == "no_evidence"
        assert (silent.tokens, silent.usage.generated_tokens) == ((), 0)
        assert silent.support == answer.support
        pieces = list(rag.stream("What is thing1 made of?", k=3, abstain_below=0.0))
        assert len(pieces) > 1  # nothing is held back


def test_the_logistic_owes_nothing_to_the_questions_that_are_scored(
    make_nbce: Callable[..., Any], tmp_path: Path
) -> None:
    """With too few for two halves, one number of all of them."""
    nbce = make_nbce()
    with PassageIndex.open(an_index(tmp_path / "index"), one_hot_things) as index:
        calibration = nbce.calibrate(questions(20), index, k=2)
        assert (calibration.figures["scored"], calibration.figures["measure"]) == (20, "question_gain")
        assert calibration.weights == {"question_gain": 1.0}
        assert calibration.figures["removed"]["questions"] == 20
        texts = [case["question"] for case in questions(19)]
        calibration = nbce.calibrate(texts, index, k=2, fusion="min-entropy")
        assert calibration.weights == {"retrieval_score": 1.0}
        assert not {"removed", "given"} & set(calibration.figures)


def test_other_settings_are_told_and_refused_where_they_matter(
    make_nbce: Callable[..., Any], tmp_path: Path
) -> None:
    nbce = make_nbce(max_tokens=2)
    with PassageIndex.open(an_index(tmp_path / "index"), one_hot_things) as index:
        nbce.calibrate(questions(20), index, k=2)
        rag = Rag(index, nbce)
        with pytest.warns(NbceWarning, match="k was 2 and is 3"):
            assert rag.ask("What is thing1 made of?", k=3).support is None
        with pytest.raises(InputError, match=r"fusion was 'posterior' and is 'mean'.*calibrate again"):
            rag.ask("What is thing1 made of?", k=2, fusion="mean", abstain_below=0.05)
        with pytest.raises(InputError, match="no share of false alarms"):
            rag.ask("What is thing1 made of?", k=2, abstain_below=2.0)
        other = Rag(index, make_nbce("gemma3", max_tokens=2))
        with pytest.warns(NbceWarning, match="model was"):
            assert other.ask("What is thing1 made of?", k=2).support is None
        assert rag.batch(["What is thing1 made of?", "And thing2?"], k=2)[1].support is not None
        IndexFolder(index.path).calibration.write_text("{}")
        with pytest.raises(ReadError, match="cannot be used"):
            Rag(index, nbce)


def test_what_is_usual_or_asked_under_a_condition_is_no_other_setting(
    make_nbce: Callable[..., Any], tmp_path: Path
) -> None:
    nbce = make_nbce(max_tokens=2)

    def rerank(query: str, texts: list[str]) -> list[float]:
        return [float(len(text)) for text in texts]

    class Encoder:
        model = "some-encoder"

        def score(self, query: str, texts: list[str]) -> list[float]:
            return rerank(query, texts)

    with PassageIndex.open(an_index(tmp_path / "index"), one_hot_things) as index:
        nbce.calibrate(questions(20), index, k=2, search={"look": False, "mode": "vector"})
        rag = Rag(index, nbce, k=2, look=False, generated=False)
        asked = "What is thing1 made of?"
        some = [passage.id for passage in index.search(asked, 3)]
        for options in ({}, {"balance": 0.5, "min_score": None}, {"ids": some}, {"where": {"id": some}}):
            assert rag.ask(asked, **options).support is not None
        with pytest.warns(NbceWarning, match="look was None and is 'True'"):
            assert rag.ask(asked, look=True).support is None
        texts = [case["question"] for case in questions(20)]
        nbce.calibrate(texts, index, k=2, search={"rerank": Encoder()})
        assert Rag(index, nbce, k=2, rerank=Encoder()).ask(asked).support is not None
        with pytest.warns(NbceWarning, match=r"rerank was 'some-encoder' and is '.*rerank'"):
            assert Rag(index, nbce, k=2, rerank=rerank).ask(asked).support is None


def test_of_parts_the_least_support_counts(make_nbce: Callable[..., Any], tmp_path: Path) -> None:
    nbce = make_nbce(max_tokens=2)
    with PassageIndex.open(an_index(tmp_path / "index"), one_hot_things) as index:
        nbce.calibrate(questions(20), index, k=2)
        answer = Rag(index, nbce, k=2).ask("What is thing1 made of? Who built thing2 with thing3?")
    supports = [part.support for part in answer.parts if part.support is not None]
    assert len(supports) == 2
    assert answer.support == min(supports)
    assert answer.support_numbers is None
    assert answer.to_dict()["support"] == answer.support


def test_nothing_is_read_where_nothing_can_be_kept(make_nbce: Callable[..., Any], tmp_path: Path) -> None:
    with PassageIndex.open(an_index(tmp_path / "index"), one_hot_things) as index:
        IndexFolder(index.path).calibration.mkdir()
        with pytest.raises(InputError, match="is a folder"):
            make_nbce().calibrate(questions(20), index, k=2, progress=lambda *_: pytest.fail("it was read"))


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        (questions(18), {}, "18 answerable questions; with false_alarms=0.05 at least 19 are needed"),
        (questions(20, gold_ids=["gone"]), {}, "There are 0 answerable questions, beside 20 whose passage"),
        ("What?", {}, "put it into a list"),
        ([7], {}, "7 is no question"),
        ([{"question": " "}], {}, "is no question"),
        (questions(2, gold_ids="thing1"), {}, "gold_ids='thing1'"),
        (questions(2, answerable="no"), {}, "answerable='no'"),
        (questions(20), {"false_alarms": 0}, "false_alarms=0 is out of range"),
        (questions(20), {"false_alarms": 0.9}, "false_alarms=0.9 is out of range"),
        (questions(20), {"k": 0}, "k=0"),
        (questions(20), {"luck": 1}, "Unknown option luck"),
    ],
)
def test_what_cannot_be_calibrated(
    make_nbce: Callable[..., Any], tmp_path: Path, asked: Any, options: dict[str, Any], message: str
) -> None:
    with PassageIndex.open(an_index(tmp_path / "index"), one_hot_things) as index:
        with pytest.raises(InputError, match=message):
            make_nbce().calibrate(asked, index, **{"k": 2, **options})
        assert not IndexFolder(index.path).calibration.exists()
