"""Several files at once in other processes: the same as one by one, whatever happens to a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from index_tools import bag_of_words
from pdf_maker import make_pdf

from nbce_rag.documents import processes
from nbce_rag.documents.limits import READ_LIMITS, ReadLimits
from nbce_rag.documents.processes import ReadingProcesses
from nbce_rag.documents.reading import Reading
from nbce_rag.errors import InputError, NbceWarning, ReadError
from nbce_rag.index import PassageIndex

# A format whose files say what befalls those who read them.
FORMAT = """
import os, signal, sys, time, warnings
from pathlib import Path
from nbce_rag.documents.document import Document
from nbce_rag.errors import ReadError, warn

def _read(path, data, limits):
    word, _, rest = data.decode().partition(" ")
    if word == "segfault": os.kill(os.getpid(), signal.SIGSEGV)
    if word == "killed": os.kill(os.getpid(), signal.SIGKILL)
    if word == "signal": os.kill(os.getpid(), int(rest))
    if word == "exit": os._exit(3)
    if word == "stall": time.sleep(600)
    if word == "spin":
        while True: pass
    if word == "memory": raise MemoryError
    if word == "odd": raise KeyError("odd")
    if word == "refuse": raise ReadError(f"{path}: refused.")
    if word == "print": print("x" * 100_000); sys.stdout.flush(); os.write(1, b"y" * 100_000)
    if word == "warn": warn("a warning")
    if word == "slow": time.sleep(0.3)
    if word == "pid": rest = f"{rest} {os.getpid()}"
    return Document(f"{word} {rest}")

from nbce_rag.documents import readers
readers._DOCUMENTS[".toy"] = _read
"""
PATCHED = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); exec({!r}); "


@pytest.fixture(autouse=True)
def toy_format(monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"{PATCHED.format(FORMAT)}from nbce_rag.documents.processes import serve; serve()"
    monkeypatch.setattr(processes, "_CODE", code)
    monkeypatch.setattr(processes, "_GRACE_S", 0.5)
    from nbce_rag.documents import readers

    monkeypatch.setattr(readers, "_DOCUMENTS", {**readers._DOCUMENTS, ".toy": lambda *_: 1 / 0})
    monkeypatch.setattr(readers, "SUFFIXES", (*readers.SUFFIXES, ".toy"))


def toys(folder: Path, *contents: str) -> list[Path]:
    paths = []
    for number, content in enumerate(contents):
        paths.append(folder / f"{number:03}.toy")
        paths[-1].write_text(content)
    return paths


def read_all(paths: list[Path], limits: ReadLimits = READ_LIMITS, workers: int = 2) -> list[str]:
    found = []
    with Reading(workers, limits) as reading:
        for path in reading.ahead(paths, lambda path: path):
            try:
                found.append(reading.read(path, limits).text)
            except ReadError as error:
                found.append(f"error: {error}")
    return found


def running(pids: list[int]) -> list[int]:
    def is_there(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return "Z (zombie)" not in Path(f"/proc/{pid}/status").read_text()

    return [pid for pid in pids if is_there(pid)]


def test_the_order_is_that_of_the_files(tmp_path: Path) -> None:
    paths = toys(tmp_path, "slow one", "quick two", "quick three", "slow four", "print five")
    assert read_all(paths) == ["slow one", "quick two", "quick three", "slow four", "print five"]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_what_ends_or_stalls_a_process_costs_its_file_alone(tmp_path: Path) -> None:
    words = ("good", "segfault", "killed", "exit", "stall", "spin", "memory", "odd", "refuse", "good")
    paths = toys(tmp_path, *(f"{word} x" for word in words))
    found = read_all(paths, ReadLimits(max_seconds=1.0))
    assert found[0] == found[-1] == "good x"
    for path, message, reason in zip(
        paths[1:-1],
        found[1:-1],
        (
            "ended the process that read it (SIGSEGV)",
            "ended the process that read it (SIGKILL, as when memory runs out)",
            "ended the process that read it (exit status 3)",
            "takes over 1 seconds to read",
            "takes over 1 seconds to read",
            "takes more memory or nests deeper",
            "cannot be read (KeyError: 'odd')",
            "refused.",
        ),
        strict=True,
    ):
        assert message.startswith(f"error: {path}: {reason}")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_process_that_ends_while_it_waits_costs_no_file(tmp_path: Path) -> None:
    paths = toys(tmp_path, "pid x", "good y")
    with ReadingProcesses(1, READ_LIMITS) as reading:
        reading.begin(paths[0])
        os.kill(int(reading.read(paths[0], READ_LIMITS).text.split()[-1]), signal.SIGKILL)
        time.sleep(0.3)
        reading.begin(paths[1])
        assert reading.read(paths[1], READ_LIMITS).text == "good y"


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="signals without a name")
def test_any_signal_is_told(tmp_path: Path) -> None:
    assert "(signal 40)" in read_all(toys(tmp_path, "signal 40"))[0]


def test_warnings_come_through(tmp_path: Path) -> None:
    with pytest.warns(NbceWarning, match="a warning"):
        assert read_all(toys(tmp_path, "warn x")) == ["warn x"]


def test_few_small_files_are_read_here_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbce_rag.documents.reading._cores", lambda: 2)
    pdf = make_pdf("A page.")

    def started(count: int) -> bool:
        paths = []
        for number in range(count):
            paths += [tmp_path / f"{number}.pdf", tmp_path / f"{number}.txt"]
            paths[-2].write_bytes(pdf)
            paths[-1].write_text("text")
        with Reading(None, READ_LIMITS) as reading:
            given = list(reading.ahead(paths, lambda path: path))
            assert given == paths
            assert {reading.read(path, READ_LIMITS).text for path in given} == {"A page.", "text"}
            return reading._processes is not None

    assert not started(7)
    assert started(8)


def test_reading_ahead_holds_no_more_than_a_few(tmp_path: Path) -> None:
    paths = toys(tmp_path, *["good x"] * 60)
    taken: list[Path] = []

    def items() -> Any:
        for path in paths:
            taken.append(path)
            yield path

    with Reading(2, READ_LIMITS) as reading:
        for number, path in enumerate(reading.ahead(items(), lambda path: path), start=1):
            assert len(taken) <= number + 8
            reading.read(path, READ_LIMITS)


def test_without_processes_everything_is_read_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(make_pdf("A page."))
    monkeypatch.setattr(processes, "_CODE", "raise SystemExit(1)")
    assert read_all([path]) == ["A page."]
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert read_all([path]) == ["A page."]
    monkeypatch.setattr(sys, "executable", "")
    assert read_all([path]) == ["A page."]


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_closing_ends_all_processes_at_once(tmp_path: Path) -> None:
    paths = toys(tmp_path, "pid x", "spin x", "stall x", "stall x")
    reading = ReadingProcesses(2, READ_LIMITS)
    for path in paths:
        reading.begin(path)
    pids = [int(reading.read(paths[0], READ_LIMITS).text.split()[-1])]
    time.sleep(0.5)
    pids += [process._process.pid for process in reading._running]
    assert running(pids)
    start = time.perf_counter()
    reading.close()
    assert time.perf_counter() - start < 2
    assert running(pids) == []


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2", True])
def test_workers_are_checked(tmp_path: Path, workers: Any) -> None:
    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        for call in (index.add_files, index.sync_files):
            with pytest.raises(InputError, match="workers"):
                call([tmp_path], workers=workers)


def mixed_folder(folder: Path, count: int) -> Path:
    """Files of many formats, some of which cannot be read."""
    folder.mkdir()
    makers: list[Callable[[int], tuple[str, bytes]]] = [
        lambda n: (f"{n}.pdf", make_pdf(f"Page of {n}.", f"Second page of {n}.", title=f"Report {n}")),
        lambda n: (f"{n}.html", f"<h1>Page {n}</h1><table><tr><td>{n}</td></tr></table>".encode()),
        lambda n: (f"{n}.md", f"# Note {n}\n\nText of {n}.".encode()),
        lambda n: (f"{n}.py", f"def f{n}():\n    return {n}\n".encode()),
        lambda n: (f"{n}.csv", f"boat,length\nyawl {n},{n}\n".encode()),
        lambda n: (f"{n}.eml", f"Subject: mail {n}\nFrom: ada@example.org\n\nText of {n}.".encode()),
        lambda n: (f"{n}.jsonl", f'{{"id": "r{n}", "text": "Record {n}."}}\nbroken\n'.encode()),
        lambda n: (f"broken{n}.pdf", b"%PDF-1.4 broken"),
        lambda n: (f"{n}.png", b"\x89PNG"),
        lambda n: (
            f"{n}.ipynb",
            f'{{"cells": [{{"cell_type": "markdown", "source": "Cell {n}."}}]}}'.encode(),
        ),
    ]
    for number in range(count):
        name, data = makers[number % len(makers)](number)
        (folder / name).write_bytes(data)
    return folder


def test_a_folder_of_200_mixed_files_is_the_same_by_any_number_of_processes(tmp_path: Path) -> None:
    pytest.importorskip("docx")
    from office_files import epub, word, workbook

    folder = mixed_folder(tmp_path / "docs", 180)
    for number in range(6):
        word(folder / f"w{number}.docx", f"<w:p><w:r><w:t>Word {number}.</w:t></w:r></w:p>")
        workbook(folder / f"x{number}.xlsx", {"A": [["a", "b"], [1, number]]})
        epub(folder / f"e{number}.epub", {"a.xhtml": f"<p>Chapter {number}.</p>"})
    (folder / "README").write_text("Read me.")
    (folder / "data.bin").write_bytes(bytes(99))
    assert len(list(folder.iterdir())) == 200
    reports, passages, errors = [], [], []
    for workers in (1, 3):
        with PassageIndex.create(tmp_path / f"index{workers}", bag_of_words) as index:
            told: list[ReadError] = []
            reports.append(index.sync_files([folder], workers=workers, on_error=told.append))
            errors.append([str(error) for error in told])
            passages.append([(p.id, p.text, p.source, p.title, dict(p.metadata)) for p in index])
            assert index.check().ok
            assert index.sync_files([folder], workers=workers).files_unchanged == 200 - 18 - 1 - 18
    assert reports[0] == reports[1]
    assert passages[0] == passages[1]
    assert errors[0] == errors[1]
    report = reports[0]
    assert len(report.files_added) == 200 - 18 - 1 - 18
    assert len(report.files_failed) == 18
    assert report.other_types == {".png": 18, ".bin": 1}
    assert len(report.warnings) == 18


SCRIPT = """
import sys
from index_tools import bag_of_words
from nbce_rag.index import PassageIndex
with PassageIndex.create(sys.argv[2], bag_of_words) as index:  # at the top level, without a guard
    print("open", flush=True)
    report = index.add_files([sys.argv[1]], workers=2)
    print(report.files_added, flush=True)
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
class TestScripts:
    def start(self, tmp_path: Path, folder: Path, code: str = "") -> subprocess.Popen[str]:
        script = tmp_path / "script.py"
        patch = f"from nbce_rag.documents import processes\nprocesses._CODE = {processes._CODE!r}\n"
        toy = "from nbce_rag.documents import readers\nreaders._DOCUMENTS['.toy'] = None\n"
        toy += "readers.SUFFIXES = (*readers.SUFFIXES, '.toy')\n"
        script.write_text(patch + toy + SCRIPT)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.Popen(
            [sys.executable, str(script), str(folder), str(tmp_path / "index")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            # A shell starts what runs in the background deaf to interruptions, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def children(self, pid: int) -> list[int]:
        children = []
        for path in Path("/proc").glob("[0-9]*/status"):
            try:
                if f"\nPPid:\t{pid}\n" in path.read_text():
                    children.append(int(path.parent.name))
            except OSError:
                continue
        return children

    def wait_for(self, count: int, pid: int) -> list[int]:
        for _ in range(300):
            if len(found := self.children(pid)) >= count:
                return found
            time.sleep(0.1)
        raise AssertionError("no processes")

    def test_a_script_needs_no_guard(self, tmp_path: Path) -> None:
        folder = mixed_folder(tmp_path / "docs", 20)
        out, error = self.start(tmp_path, folder).communicate(timeout=60)
        assert (out, error) == ("open\n16\n", "")

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
    def test_an_interruption_leaves_no_process_and_nothing_torn(self, tmp_path: Path, how: int) -> None:
        folder = mixed_folder(tmp_path / "docs", 10)
        toys(folder, "stall x", "stall y")
        process = self.start(tmp_path, folder)
        children = self.wait_for(2, process.pid)
        time.sleep(1)
        process.send_signal(how)
        process.communicate(timeout=20)
        for _ in range(50):
            if not running(children):
                break
            time.sleep(0.1)
        assert running(children) == []
        for path in folder.glob("*.toy"):
            path.unlink()
        with PassageIndex.open(tmp_path / "index", bag_of_words) as index:
            assert index.check().ok
            index.add_files([folder])
            assert index.check().ok
            assert len(list(index.sources())) == 8
