from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import nbce_rag
from nbce_rag.answers.answer import Answer, Piece
from nbce_rag.answers.report import report_schema
from nbce_rag.cli.main import app
from nbce_rag.errors import InputError, ModelError, NbceWarning
from nbce_rag.evidence.ablation import Ablation
from nbce_rag.evidence.evidence import Citation, Timings, TokenEvidence, Usage
from nbce_rag.passages import Passage
from nbce_rag.request import Request

TEXTS = {
    "mule.md": "# Mules\n\nA mule has a donkey as its father and a horse as its mother.\n",
    "hinny.txt": "A hinny has a horse as its father.\n",
}


class ScriptedEngine:
    """Answers with the first words of the best passage, and remembers how it was called."""

    loaded: tuple[Any, dict[str, Any]]
    asked: tuple[str, list[Passage], dict[str, Any]]
    fails_with: BaseException | None = None
    warns: str = ""
    thought: str = ""
    tokens: tuple[TokenEvidence, ...] = ()
    kv_store = None

    @classmethod
    def from_pretrained(
        cls,
        model: str | None = None,
        *,
        prompt: Any = None,
        device: str | None = None,
        dtype: str = "auto",
        kv_store: Any = None,
        **options: Any,
    ) -> ScriptedEngine:
        others = {"prompt": prompt, "device": device, "kv_store": kv_store}
        options |= {name: value for name, value in others.items() if value is not None}
        cls.loaded = (model, options if dtype == "auto" else {**options, "dtype": dtype})
        print("a library prints something")
        if isinstance(cls.fails_with, ModelError):
            raise cls.fails_with
        return cls()

    def request(self, question: str, **options: Any) -> Request:
        type(self).asked = (question, [], options)
        return Request(question)

    def in_parts(self, request: Request) -> Request:
        return request

    def batch(self, requests: Sequence[Request]) -> list[Answer]:
        (request,) = requests
        *_, last = self.stream(request)
        assert last.answer is not None
        return [last.answer]

    def attribute(self, question: str, passages: Sequence[Passage], text: str, **options: Any) -> Answer:
        """The text as a whole cites the best passage."""
        type(self).asked = (question, [], options)
        answer = self.batch([Request(question, passages)])[0]
        citations = (Citation(0, len(text), text, 0, passages[0].id, 0.9, False),)
        tokens = (TokenEvidence(1, text, 0, len(text), -1.0, (1.0,) + (0.0,) * (len(passages) - 1), 1.0),)
        return dataclasses.replace(
            answer, text=text, tokens=tokens, citations=citations, finish_reason="given", grounding=1.0
        )

    def ablate(self, answer: Answer) -> Answer:
        if answer.thought:
            raise InputError("The answer comes behind a thought.")
        necessity = (5.0,) + (0.0,) * (len(answer.passages) - 1)
        return dataclasses.replace(answer, ablation=Ablation(-2.0, -7.0, necessity, (necessity,), -0.25))

    def stream(self, request: Request) -> Iterator[Piece]:
        question, passages = request.question, request.passages
        self.asked[1].extend(passages)
        print("a library prints more")
        notes = ("no passages: answered from the question alone",) if not passages else ()
        for note in (*notes, self.warns):
            if note:
                warnings.warn(note, NbceWarning, stacklevel=2)
        text = "a donkey \U0001f434"
        yield Piece(text[:4], (), None)
        if self.fails_with is not None:
            raise self.fails_with
        citations = (Citation(0, 8, "a donkey", 0, passages[0].id, 0.9, True),) if passages else ()
        answer = Answer(
            question=question,
            text=text,
            tokens=self.tokens,
            citations=citations,
            passages=tuple(passages),
            usage=Usage(10, 0, 4, (5, 5)),
            timings=Timings(retrieve=None, prefill=0.5, first_token=0.5, decode=0.25, total=0.75),
            finish_reason="stop",
            grounding=float("nan"),
            fusion="posterior",
            warnings=notes,
            thought=self.thought,
        )
        yield Piece(text[4:], (), answer)


def embed(texts: list[str]) -> np.ndarray[Any, Any]:
    """Letter counts: enough to tell the two documents apart."""
    return np.array([[1.0 + text.lower().count(chr(97 + n)) for n in range(26)] for text in texts])


def replace_model(patch: pytest.MonkeyPatch, fn: Callable[[list[str]], np.ndarray[Any, Any]]) -> None:
    from nbce_rag.documents.splitting import approximate_tokens
    from nbce_rag.embedding.sentence_transformer import SentenceTransformerEmbedder

    patch.setattr(SentenceTransformerEmbedder, "dimension", 26)
    patch.setattr(SentenceTransformerEmbedder, "max_tokens", None)
    patch.setattr(SentenceTransformerEmbedder, "count_tokens", lambda self, text: approximate_tokens(text))
    patch.setattr(SentenceTransformerEmbedder, "embed", lambda self, texts: fn(list(texts)))
    patch.setattr(SentenceTransformerEmbedder, "embed_query", lambda self, text: fn([text])[0])


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[ScriptedEngine]:
    class Engine(ScriptedEngine):
        pass

    module = ModuleType("nbce_rag.engine.nbce")
    module.NBCE = Engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nbce_rag.engine.nbce", module)
    return Engine


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two documents; and sentence-transformers models need no weights meanwhile."""
    replace_model(monkeypatch, embed)
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def made(docs: Path, tmp_path: Path) -> str:
    path = str(tmp_path / "my-index")
    assert run("index", str(docs), "--index", path).exit_code == 0
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_version() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout == f"nbce-rag {nbce_rag.__version__}\n"


def test_help_names_the_commands() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "index" in result.stdout
    assert "ask" in result.stdout


def test_help_of_the_module_loads_nothing_heavy() -> None:
    code = (
        "import atexit, runpy, sys; sys.argv = ['nbce-rag', '--help'];"
        "heavy = {'torch', 'numpy', 'faiss', 'transformers'};"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules))));"
        "runpy.run_module('nbce_rag', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Usage: nbce-rag" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_ask_prints_the_answer_and_its_sources(made: str, engine: type[ScriptedEngine]) -> None:
    result = run("ask", "Who is the father of a mule?", "--index", made, "-k", "1")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "a donkey[1] \U0001f434"
    assert lines[2] == "Sources"
    assert lines[3].startswith("[1] ")
    assert "characters 0-" in lines[3]
    assert "\x1b" not in result.stdout
    assert "library" not in result.stdout
    assert engine.loaded == (None, {})
    question, passages, options = engine.asked
    assert question == "Who is the father of a mule?"
    assert len(passages) == 1
    assert passages[0].score is not None
    assert options == {}


def test_ask_says_what_a_chat_template_may_look_at(made: str, engine: type[ScriptedEngine]) -> None:
    asked = ("ask", "Who?", "--index", made, "--chat-template-kwargs")
    assert run(*asked, '{"enable_thinking": false, "effort": "low"}').exit_code == 0
    assert engine.loaded[1] == {"chat_template_kwargs": {"enable_thinking": False, "effort": "low"}}
    del engine.loaded
    for wrong, why in (("{enable_thinking: false}", "is no JSON ("), ("[1]", "is no JSON object")):
        result = run(*asked, wrong)
        assert result.exit_code == 2
        assert f"--chat-template-kwargs {wrong!r} {why}" in " ".join(result.stderr.split())
        assert "enable_thinking" in result.stderr
        assert not hasattr(engine, "loaded")


def test_ask_says_whether_the_model_shall_think(made: str, engine: type[ScriptedEngine]) -> None:
    engine.thought = "hm, mules"
    asked = ("ask", "Who?", "--index", made)
    result = run(*asked, "--thinking", "--max-thought-tokens", "9")
    assert engine.loaded[1] == {"thinking": True, "max_thought_tokens": 9}
    assert "hm, mules\n" in result.stderr
    assert "hm" not in result.stdout
    result = run(*asked, "--no-thinking")
    assert engine.loaded[1] == {"thinking": False}
    assert "hm" not in result.stderr
    assert json.loads(run(*asked, "--thinking", "--json").stdout)["thought"] == "hm, mules"
    assert run(*asked, "--max-thought-tokens", "-1").exit_code == 2


def test_a_found_passage_names_its_file(made: str, docs: Path, engine: type[ScriptedEngine]) -> None:
    result = run("ask", "donkey donkey mother father", "--index", made, "-k", "1")
    assert "mule.md, characters 0-" in result.stdout, result.output


def test_ask_hands_on_the_options_that_are_given(made: str, engine: type[ScriptedEngine]) -> None:
    result = run(
        *("ask", "Who?", "--index", made, "--model", "some/model", "--fusion", "mean", "--max-tokens", "7"),
        *("--temperature", "0.5", "--top-p", "0.9", "--seed", "3", "--abstain-below", "-0.25"),
        *("--device", "cpu", "--dtype", "float32"),
    )
    assert result.exit_code == 0, result.output
    model, options = engine.loaded
    assert model == "some/model"
    assert options == {
        "fusion": "mean",
        "device": "cpu",
        "dtype": "float32",
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "abstain_below": -0.25,
    }
    assert len(engine.asked[1]) == 2


def test_json_is_one_object_and_nothing_else(made: str, engine: type[ScriptedEngine]) -> None:
    result = run("ask", "Who?", "--index", made, "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    assert result.stdout.isascii()
    printed = json.loads(result.stdout)
    assert printed["question"] == "Who?"
    assert printed["answer"] == "a donkey \U0001f434"
    (citation,) = printed["citations"]
    cited = {"start": 0, "end": 8, "passage_id": printed["contexts"][0]["id"], "share": 0.9}
    assert citation.items() >= cited.items()
    assert set(printed["contexts"][0]) >= {"id", "score", "source", "title", "text"}
    jsonschema.Draft202012Validator(nbce_rag.report_schema()).validate(printed)
    assert printed["grounding"] is None
    timings = printed["timings"]
    assert timings["retrieve"] > 0
    assert timings["total"] == pytest.approx(0.75 + timings["retrieve"])
    assert "library" in result.stderr


def test_warnings_are_lines_on_stderr_and_those_of_the_answer_are_shown_with_it(
    docs: Path, tmp_path: Path, engine: type[ScriptedEngine]
) -> None:
    from nbce_rag.index import PassageIndex

    PassageIndex.create(tmp_path / "empty", embedder="any").close()
    engine.warns = "something\nelse"
    result = run("ask", "Who?", "--index", str(tmp_path / "empty"))
    assert result.exit_code == 0, result.output
    assert "warning: no passages: answered from the question alone\n" in result.stdout
    assert "warning: something else\n" in result.stderr
    assert "no passages: answered" not in result.stderr


@pytest.mark.parametrize(
    "error", [ModelError("no model at 'x';\ngive another"), InputError("the question has 9 tokens too many")]
)
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_errors_are_one_line(
    made: str, engine: type[ScriptedEngine], error: Exception, flags: list[str]
) -> None:
    engine.fails_with = error
    result = run("ask", "Who?", "--index", made, *flags)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == "error: " + " ".join(str(error).split())
    assert "Traceback" not in result.output


def test_page_and_picture_are_written(made: str, tmp_path: Path, engine: type[ScriptedEngine]) -> None:
    pytest.importorskip("matplotlib")
    page, picture = tmp_path / "answer.html", tmp_path / "evidence.svg"
    for more in ([], ["--json"]):
        result = run("ask", "<what?>", "--index", made, "--html", str(page), "--plot", str(picture), *more)
        assert result.exit_code == 0, result.stderr
        assert engine.loaded[1] == {"entropies": True}
        html = page.read_text(encoding="utf-8")
        assert html.startswith("<!DOCTYPE html>")
        assert "&lt;what?&gt;" in html
        assert "a donkey" in html
        assert picture.read_bytes().startswith(b"<?xml")
        page.unlink()
        picture.unlink()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--html", "none/page.html"], "does not exist"),
        (["--html", "."], "is a folder"),
        (["--plot", "picture.doc"], "no kind of picture"),
    ],
)
def test_files_that_cannot_be_written_are_refused_before_anything_is_loaded(
    made: str, engine: type[ScriptedEngine], arguments: list[str], said: str
) -> None:
    result = run("ask", "what?", "--index", made, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not hasattr(engine, "loaded")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--where", '{"year": {"$above": 3}}'], "$above"),
        (["--where", "year"], "no condition"),
        (["--fusion", "maximum"], "maximum"),
        (["--mmr", "0.5", "--seed", str(2**65)], "seed"),
    ],
)
def test_options_that_are_wrong_are_refused_before_a_model_is_loaded(
    made: str, engine: type[ScriptedEngine], arguments: list[str], said: str
) -> None:
    result = run("ask", "what?", "--index", made, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not hasattr(engine, "loaded")


def test_options_of_the_search_stay_with_the_search(made: str, engine: type[ScriptedEngine]) -> None:
    result = run(
        *("ask", "donkey", "--index", made, "-k", "1", "--hybrid", "--mmr", "1", "--min-score", "-1"),
        "--look",
        *("--where", "source~hinny"),
    )
    assert result.exit_code == 0, result.output
    assert engine.loaded == (None, {})
    (passage,) = engine.asked[1]
    assert "hinny" in str(passage.source)


def test_an_error_that_is_not_ours_is_not_hidden(made: str, engine: type[ScriptedEngine]) -> None:
    engine.fails_with = ZeroDivisionError("a bug")
    assert isinstance(run("ask", "Who?", "--index", made).exception, ZeroDivisionError)


def test_ctrl_c_while_answering(made: str, engine: type[ScriptedEngine]) -> None:
    engine.fails_with = KeyboardInterrupt()
    result = run("ask", "Who?", "--index", made)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "interrupted"


def test_an_empty_question_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    result = run("ask", "  ", "--index", str(tmp_path / "none"))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: the question is empty")


def test_asking_without_an_index(tmp_path: Path) -> None:
    result = run("ask", "Who?", "--index", str(tmp_path / "none"))
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "none" in line
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "arguments", [["ask"], ["ask", "q"], ["index"], ["ask", "q", "--index", "i", "-k", "0"], ["nonsense"]]
)
def test_wrong_usage_exits_with_two(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_index_again_takes_in_only_what_has_changed(docs: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "my-index")
    first = run("index", str(docs), "--index", path)
    assert first.exit_code == 0, first.output
    assert first.stdout == (
        "Files: 2 added, 0 unchanged, 0 failed. Passages: 2 added, 0 removed, 2 in the index.\n"
    )
    assert first.stderr == ""

    again = run("index", str(docs), "--index", path)
    assert again.exit_code == 0
    assert again.stdout == (
        "Files: 0 added, 2 unchanged, 0 failed. Passages: 0 added, 0 removed, 2 in the index.\n"
    )

    (docs / "hinny.txt").write_text("A hinny is smaller than a mule.\n", encoding="utf-8")
    changed = run("index", str(docs), "--index", path)
    assert changed.stdout == (
        "Files: 0 added, 1 changed, 1 unchanged, 0 failed. Passages: 1 added, 1 removed, 2 in the index.\n"
    )


def test_index_names_what_it_cannot_read_and_goes_on(docs: Path, tmp_path: Path) -> None:
    (docs / "empty.txt").write_text("", encoding="utf-8")
    (docs / "some.jsonl").write_text('{"text": "A line that is fine."}\nnot JSON\n', encoding="utf-8")
    missing = tmp_path / "missing\x1b[31m.md"
    result = run("index", str(docs), str(missing), "--index", str(tmp_path / "my-index"))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Files: 3 added, 0 unchanged, 2 failed. Passages: 3 added")
    for name, kind in (("empty.txt", "failed"), ("missing[31m.md", "failed"), ("some.jsonl", "warning")):
        (line,) = [line for line in result.stderr.splitlines() if name in line]
        assert line.startswith(f"{kind}: ")


def test_index_exits_with_one_when_nothing_can_be_read(docs: Path, tmp_path: Path) -> None:
    result = run("index", str(tmp_path / "missing.md"), "--index", str(tmp_path / "my-index"))
    assert result.exit_code == 1
    assert "missing.md" in result.stderr
    assert result.stdout.startswith("Files: 0 added, 0 unchanged, 1 failed")


def test_index_splits_as_told(docs: Path, tmp_path: Path) -> None:
    from nbce_rag.index import PassageIndex

    (docs / "long.txt").write_text("One sentence more. " * 50, encoding="utf-8")
    result = run(
        "index",
        str(docs / "long.txt"),
        "--index",
        str(tmp_path / "a"),
        "--max-tokens",
        "20",
        "--overlap",
        "0",
    )
    assert result.exit_code == 0, result.output
    assert len(PassageIndex.open(tmp_path / "a")) > 5
    wrong = run("index", str(docs), "--index", str(tmp_path / "b"), "--max-tokens", "20", "--overlap", "20")
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("error: ")


def test_index_keeps_its_embedder(made: str, docs: Path) -> None:
    assert run("index", str(docs), "--index", made).exit_code == 0
    result = run("index", str(docs), "--index", made, "--embedder", "another")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "another" in line


def test_ctrl_c_while_indexing_leaves_an_index_that_works(
    made: str, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(texts: list[str]) -> np.ndarray[Any, Any]:
        if any("new" in text for text in texts):
            raise KeyboardInterrupt
        return embed(texts)

    (docs / "new.txt").write_text("Something new.", encoding="utf-8")
    with monkeypatch.context() as patch:
        replace_model(patch, interrupted)
        result = run("index", str(docs), "--index", made)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1].startswith("interrupted: ")
    assert "Traceback" not in result.output
    again = run("index", str(docs), "--index", made)
    assert again.exit_code == 0, again.output
    assert "1 added, 0 removed, 3 in the index" in again.stdout


def test_attribute_cites_what_somebody_else_wrote(
    made: str, engine: type[ScriptedEngine], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    asked = ("attribute", "Who is the father of a mule?", "--index", made, "-k", "2")
    result = run(*asked, "--text", "A donkey is.", "--html", str(page))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("A donkey is.[1]\n")
    assert "library" not in result.stdout
    assert "Left out" not in result.stdout
    assert "A donkey is." in page.read_text(encoding="utf-8")
    question, passages, options = engine.asked
    assert (question, len(passages), options) == ("Who is the father of a mule?", 2, {})
    file = tmp_path / "answer.txt"
    file.write_text("\ufeffEin Esel \U0001f434", encoding="utf-8")
    result = run(*asked, "--text-file", str(file), "--json", "--ablate")
    report = json.loads(result.stdout)
    jsonschema.validate(report, report_schema())
    assert report["answer"] == "Ein Esel \U0001f434"
    assert report["finish_reason"] == "given"
    assert report["ablation"]["necessity"] == [5.0, 0.0]
    done = CliRunner().invoke(app, [*asked, "--text-file", "-"], input="From stdin.")
    assert done.stdout.startswith("From stdin.[1]\n")


def test_attribute_says_what_is_wrong(made: str, engine: type[ScriptedEngine], tmp_path: Path) -> None:
    asked = ("attribute", "Who?", "--index", made)
    file, blank = tmp_path / "answer.txt", tmp_path / "blank.txt"
    file.write_bytes(b"\xff")
    blank.write_bytes(b"\xef\xbb\xbf \r\n")
    for wrong, why in (
        ((), "either --text or --text-file; neither was given"),
        (("--text", "a", "--text-file", str(file)), "either --text or --text-file; both were given"),
        (("--text", " "), "the text of --text is empty"),
        (("--text-file", str(blank)), "blank.txt is empty"),
        (("--text-file", str(file)), "no text in UTF-8"),
        (("--text-file", str(tmp_path / "none")), "none"),
    ):
        result = run(*asked, *wrong)
        assert result.exit_code == 2
        assert why in result.stderr
    assert "the question is empty" in run("attribute", " ", "--index", made, "--text", "a").stderr


def test_ask_can_leave_passages_out(made: str, engine: type[ScriptedEngine]) -> None:
    asked = ("ask", "Who is the father of a mule?", "--index", made, "-k", "2", "--ablate")
    assert "Left out" not in run(*asked).stdout  # it says nothing of its own
    engine.tokens = (TokenEvidence(1, "a donkey \U0001f434", 0, 10, -1.0, (1.0, 0.0), 1.0),)
    lines = run(*asked).stdout.splitlines()
    assert lines[-1] == (
        "Left out, a passage makes the answer less likely by (nats): [1] +5.0, [2] 0.0; over what is cited "
        "alone it is \u22120.2 likelier"
    )
    assert json.loads(run(*asked, "--json").stdout)["ablation"]["sufficiency"] == -0.25


def test_an_answer_that_cannot_be_ablated_is_not_lost(made: str, engine: type[ScriptedEngine]) -> None:
    asked = ("ask", "Who is the father of a mule?", "--index", made, "-k", "2", "--ablate", "--thinking")
    engine.tokens = (TokenEvidence(1, "a donkey \U0001f434", 0, 10, -1.0, (1.0, 0.0), 1.0),)
    engine.thought = "Hm."
    for more in ((), ("--json",)):
        result = run(*asked, *more)
        assert result.exit_code == 0, result.output
        assert "donkey" in result.stdout
        assert "warning: --ablate: The answer comes behind a thought." in result.stderr
