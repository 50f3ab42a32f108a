"""`index --kv`, `ask` on what it made, and `nbce-rag kv`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from engine_reference import engine_of
from test_cli import embed as count_letters
from test_cli import replace_model, run

from nbce_rag.cli import kv as kv_command
from nbce_rag.cli.kv import parse_bytes
from nbce_rag.engine import prefill as kv_fill
from nbce_rag.errors import InputError
from nbce_rag.kv.folder import KVFolder

TEXTS = ["The ferry is run by Ada.", "The market opens at eight.", "Water boils at 100 degrees.", "Bread."]


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four documents; the embedder needs no weights meanwhile, and nothing touches the user's cache."""
    replace_model(monkeypatch, count_letters)
    monkeypatch.setenv("NBCE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "docs"
    folder.mkdir()
    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def indexed(docs: Path, tmp_path: Path, tiny_folder: Callable[..., Path]) -> tuple[str, list[str]]:
    """(an index whose passages were read, the arguments that name model and dtype)."""
    index = str(tmp_path / "index")
    model = ["--model", str(tiny_folder("gemma3")), "--dtype", "float32", "--device", "cpu"]
    done = run("index", str(docs), "--index", index, "--kv", *model)
    assert done.exit_code == 0, done.output
    assert "Keys and values: 4 passages read, 0 kept, " in done.stdout
    return index, model


def test_a_question_finds_every_passage_read(
    indexed: tuple[str, list[str]], tiny_folder: Callable[..., Path]
) -> None:
    index, model = indexed
    done = run(
        "ask", "Who runs the ferry?", "--index", index, "-k", "4", "--json", "--max-tokens", "3", *model
    )
    assert done.exit_code == 0, done.output
    usage = json.loads(done.stdout)["usage"]
    from nbce_rag import NBCE

    nbce = NBCE.from_pretrained(tiny_folder("gemma3"), kv_store=False)
    suffix = len(engine_of(nbce).plan(nbce.request("Who runs the ferry?")).suffix.ids)
    assert len(usage["row_tokens"]) == 5
    assert usage["cached_tokens"] == sum(usage["row_tokens"]) - 5 * suffix
    report = json.loads(run("kv", index, "--json").stdout)
    assert report["disk"] == {"hits": 5, "misses": 5}  # missed when they were read ahead
    assert report["contexts"] == report["written"] == 5
    assert report["models"][0] | {"bytes": 0} == {
        "model": str(tiny_folder("gemma3")),
        "dtype": "float32",
        "codec": "exact",
        "contexts": 5,
        "bytes": 0,
    }


def test_ask_may_keep_them_elsewhere(indexed: tuple[str, list[str]], tmp_path: Path) -> None:
    index, model = indexed
    for wanted in (0, 1):
        done = run("ask", "Who?", "--index", index, "--kv", str(tmp_path / "own"), "--json", *model)
        assert (json.loads(done.stdout)["usage"]["cached_tokens"] > 0) == bool(wanted), done.output
    shown = run("kv", str(tmp_path / "own")).stdout
    assert "own: 5 contexts," in shown
    assert "Found in disk: 5 of 10 (50%)" in shown


def test_again_reads_only_what_is_new_also_after_an_interruption(
    docs: Path, indexed: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, model = indexed
    for number in range(4, 9):
        (docs / f"{number}.txt").write_text(f"Letter number {number}.", encoding="utf-8")

    @contextmanager
    def interrupted() -> Iterator[Callable[[int, int, str], None]]:
        def report(done: int, total: int, what: str) -> None:
            if total == 9 and done == 6 and not what.startswith(str(docs)):
                raise KeyboardInterrupt

        yield report

    with monkeypatch.context() as patch:
        patch.setattr(kv_command, "progress_bar", interrupted)
        patch.setattr(kv_fill, "_BATCH", 2)
        done = run("index", str(docs), "--index", index, "--kv", *model)
    assert done.exit_code == 130
    assert "run the same command again to go on" in done.stderr
    done = run("index", str(docs), "--index", index, "--kv", *model)
    assert "Keys and values: 3 passages read, 6 kept, " in done.stdout


def test_options_that_need_kv(docs: Path, tmp_path: Path) -> None:
    done = run("index", str(docs), "--index", str(tmp_path / "index"), "--model", "m")
    assert done.exit_code == 2
    assert "--model goes with --kv" in done.stderr
    done = run("index", str(docs), "--index", str(tmp_path / "index"), "--no-kv-sentences")
    assert done.exit_code != 0
    assert "--no-kv-sentences goes with --kv" in done.stderr
    assert not (tmp_path / "index").exists()


def test_too_much_for_the_limit_is_said_before_it_is_read(
    docs: Path, tmp_path: Path, tiny_folder: Callable[..., Path]
) -> None:
    arguments = [
        "index",
        str(docs),
        "--index",
        str(tmp_path / "index"),
        "--kv",
        "--model",
        str(tiny_folder("llama")),
    ]
    done = run(*arguments, "--kv-max-bytes", "2kB")
    assert done.exit_code == 2
    assert "Raise the limit" in done.stderr
    assert not list((tmp_path / "index" / "kv").glob("*.safetensors"))
    assert run(*arguments, "--kv-max-bytes", "1MB").exit_code == 0
    assert json.loads(run("kv", str(tmp_path / "index"), "--json").stdout)["max_bytes"] == 10**6


def test_pruning(indexed: tuple[str, list[str]]) -> None:
    index, _ = indexed
    folder = KVFolder(Path(index, "kv"))
    entries = sorted(folder.entries(), key=lambda entry: entry.size)
    entries[0].path.write_bytes(b"damaged")
    assert "4 contexts" in run("kv", index).stdout.replace("5 contexts", "4 contexts")
    done = run("kv", index, "--prune")
    assert done.stdout.startswith("Removed 1 contexts.")
    assert "damaged: " in done.stderr
    limit = sum(entry.size for entry in list(folder.entries())[:3])
    done = run("kv", index, "--max-bytes", str(limit))
    assert folder.nbytes() <= limit
    assert folder.limit() == limit
    assert run("kv", index, "--clear").exit_code == 0
    assert list(folder.entries()) == []
    assert "0 contexts, 0 B of at most" in run("kv", index).stdout


def test_where_there_is_no_store(docs: Path, tmp_path: Path) -> None:
    for arguments in ([], [str(tmp_path / "none")], ["--max-bytes", "lots"]):
        done = run("kv", *arguments)
        assert done.exit_code == 2
        assert "no KV store" in done.stderr or "is no size" in done.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0", 0),
        ("800000", 800000),
        ("2GB", 2 * 10**9),
        ("1.5 GiB", 3 * 2**29),
        ("10k", 10**4),
        ("7mb", 7 * 10**6),
        ("1T", 10**12),
    ],
)
def test_sizes(text: str, wanted: int) -> None:
    assert parse_bytes(text) == wanted


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "2PB", "1iB", "two", "1 2", "1e9", "nan"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match="no size"):
        parse_bytes(text)


def test_ask_may_keep_them_in_a_bucket(indexed: tuple[str, list[str]], tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    index, model = indexed
    done = run("ask", "Who?", "--index", index, "--kv", f"file://{tmp_path}/bucket", "--json", *model)
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "bucket").glob("*.safetensors"))) == 5
    done = run("ask", "Who?", "--index", index, "--kv", "s3://user:pa55word@", *model)
    assert done.exit_code == 2
    assert "cannot be opened" in done.stderr
    assert "pa55word" not in done.output
