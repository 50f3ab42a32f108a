"""What is passed over in folders: patterns that are given, and those in files."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from index_tools import bag_of_words
from typer.testing import CliRunner

from nbce_rag.cli.main import app
from nbce_rag.documents.folders import read_files
from nbce_rag.errors import InputError, ReadError
from nbce_rag.index import PassageIndex


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"This is {name}.")
    return folder


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def names(folder: Path, *paths: Path, **options: object) -> set[str]:
    errors: list[ReadError] = []
    result = read_files(paths or [folder], on_error=errors.append, **options)  # type: ignore[arg-type]
    there = {path.relative_to(folder).as_posix() for path, _ in result}
    assert all("holds no file" in str(error) for error in errors), errors
    return there


FILES = (
    "a.txt",
    "b.md",
    "drafts/a.txt",
    "drafts/keep.txt",
    "drafts/deep/a.txt",
    "sub/a.txt",
    "sub/drafts/c.txt",
)


@pytest.mark.parametrize(
    ("patterns", "passed_over"),
    [
        ((), set()),
        ("drafts/", {"drafts/a.txt", "drafts/keep.txt", "drafts/deep/a.txt", "sub/drafts/c.txt"}),
        ("/drafts/", {"drafts/a.txt", "drafts/keep.txt", "drafts/deep/a.txt"}),
        ("a.txt", {"a.txt", "drafts/a.txt", "drafts/deep/a.txt", "sub/a.txt"}),
        (["*.txt", "!keep.txt"], {name for name in FILES if name.endswith(".txt")} - {"drafts/keep.txt"}),
        # What lies in a folder that is passed over is not looked at.
        (
            ["drafts/", "!keep.txt"],
            {"drafts/a.txt", "drafts/keep.txt", "drafts/deep/a.txt", "sub/drafts/c.txt"},
        ),
        (["drafts/**/a.txt"], {"drafts/a.txt", "drafts/deep/a.txt"}),
        (["[ab].*", "!b.md"], {"a.txt", "drafts/a.txt", "drafts/deep/a.txt", "sub/a.txt"}),
        (["# a.txt", "", "b.md "], {"b.md"}),
        (["*"], set(FILES)),
        ("./drafts", {"drafts/a.txt", "drafts/keep.txt", "drafts/deep/a.txt"}),
        ("{folder}/drafts/", {"drafts/a.txt", "drafts/keep.txt", "drafts/deep/a.txt"}),
        (["a.txt", "!{folder}/sub/a.txt"], {"a.txt", "drafts/a.txt", "drafts/deep/a.txt"}),
        ("/drafts/deep//", {"drafts/deep/a.txt"}),
    ],
)
def test_patterns_pass_over(tmp_path: Path, patterns: str | list[str], passed_over: set[str]) -> None:
    given = [patterns] if isinstance(patterns, str) else patterns
    exclude = [pattern.replace("{folder}", tmp_path.as_posix()) for pattern in given]
    assert names(tree(tmp_path, *FILES), exclude=exclude) == set(FILES) - passed_over


def test_files_of_patterns_count_for_their_folder_and_the_deepest_counts(tmp_path: Path) -> None:
    tree(tmp_path, *FILES)
    write(tmp_path / ".nbceignore", "a.txt")
    write(tmp_path / "drafts" / ".nbceignore", "!a.txt", "keep.txt")
    assert names(tmp_path) == {"b.md", "drafts/a.txt", "drafts/deep/a.txt", "sub/drafts/c.txt"}
    # Those that are given count before files; paths that are given count in any case.
    assert "drafts/keep.txt" in names(tmp_path, exclude="!keep.txt")
    assert names(tmp_path, tmp_path / "sub", tmp_path / "a.txt") == {"sub/a.txt", "sub/drafts/c.txt", "a.txt"}


def test_gitignore_counts_when_it_is_asked_for(tmp_path: Path) -> None:
    tree(tmp_path, *FILES)
    (tmp_path / ".git").mkdir()
    write(tmp_path / ".gitignore", "drafts/", "a.txt")
    write(tmp_path / "sub" / ".nbceignore", "!a.txt")
    assert len(names(tmp_path)) == len(FILES)
    assert names(tmp_path, gitignore=True) == {"b.md", "sub/a.txt"}
    # That of the repository counts in a folder of it, unless it passes over that folder itself.
    assert names(tmp_path, tmp_path / "sub", gitignore=True) == {"sub/a.txt"}
    assert names(tmp_path, tmp_path / "drafts", gitignore=True) == {
        "drafts/a.txt",
        "drafts/keep.txt",
        "drafts/deep/a.txt",
    }


def test_hidden_files_and_links(tmp_path: Path) -> None:
    docs = tree(tmp_path / "docs", "a.txt", ".hidden.txt", ".folder/b.txt")
    tree(tmp_path / "other", "c.txt", "d.txt")
    (docs / "folder").symlink_to(tmp_path / "other", target_is_directory=True)
    (docs / "c.txt").symlink_to(tmp_path / "other" / "c.txt")
    assert names(docs) == {"a.txt", "c.txt"}
    assert names(docs, exclude=["!.hidden.txt", "c.txt"]) == {"a.txt"}
    assert names(docs, docs / ".folder", docs / "folder") == {".folder/b.txt", "folder/c.txt", "folder/d.txt"}


def test_what_is_no_pattern_is_named(tmp_path: Path) -> None:
    tree(tmp_path, "a.txt", "b.txt")
    for pattern in ("!", "x" * 2000, "a\0b", "a*" * 40, "**/a/" * 10, "a\\", "[a", "[", "[[:foo:]]"):
        with pytest.raises(InputError, match="no pattern"):
            read_files([tmp_path], exclude=pattern)
    with pytest.raises(InputError, match="exclude"):
        read_files([tmp_path], exclude=[1])  # type: ignore[list-item]
    (tmp_path / ".nbceignore").write_bytes(b"\xef\xbb\xbfa.txt\r\n!\n\xff\xfe\n")
    errors: list[str] = []
    there = [
        path.name for path, _ in read_files([tmp_path], on_error=lambda error: errors.append(str(error)))
    ]
    assert there == ["b.txt"]
    assert len(errors) == 1
    assert "'!' is no pattern" in errors[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
def test_a_pipe_in_place_of_patterns_is_not_waited_for(tmp_path: Path) -> None:
    tree(tmp_path, "a.txt")
    os.mkfifo(tmp_path / ".nbceignore")
    errors: list[str] = []
    assert list(read_files([tmp_path], on_error=lambda error: errors.append(str(error))))
    assert ".nbceignore" in errors[0]


def test_a_folder_of_excluded_files_says_so(tmp_path: Path) -> None:
    tree(tmp_path, "a.txt")
    errors: list[str] = []
    assert not list(read_files([tmp_path], exclude="*", on_error=lambda error: errors.append(str(error))))
    assert "and is not excluded" in errors[0]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_patterns_pass_over_what_git_passes_over(tmp_path: Path) -> None:
    lines = [
        "a*",
        "!a.txt",
        "/b",
        "b/",
        "!b/",
        "*/c",
        "**/c/",
        "c/**",
        "!c/a.txt",
        "*",
        "!*/",
        "!*.txt",
        "a/b",
        "[!a].txt",
        "d?.txt",
    ]
    files = [
        "/".join(parts)
        for n in (1, 2, 3)
        for parts in itertools.product(*["abc"] * (n - 1), ["a.txt", "b.txt", "dd.txt"])
    ]
    own = random.Random(1)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    tree(tmp_path, *files)
    for _ in range(12):
        write(tmp_path / ".gitignore", *own.choices(lines, k=4))
        write(tmp_path / own.choice("abc") / ".gitignore", *own.choices(lines, k=2))
        done = subprocess.run(
            ["git", "-C", tmp_path, "ls-files", "--others", "--exclude-standard"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
        )
        expected = {name for name in done.stdout.splitlines() if name.endswith(".txt")}
        assert names(tmp_path, gitignore=True) == expected


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_patterns_of_odd_names_pass_over_what_git_passes_over(tmp_path: Path) -> None:
    lines = [
        "a",
        " a",
        "a ",
        "a\\ ",
        "\\ a",
        "a\\\\b",
        "\\!a",
        "#a",
        "\\#a",
        "a\\*",
        "\\a",
        "?*",
        "a**",
        "a**b/",
    ]
    lines += [
        "[a]",
        "\\[a\\]",
        "[[]a]",
        "[a-b]",
        "[!a]",
        "[^a]",
        "[]]",
        "[^]a]*",
        "[]",
        "[!]",
        "[a",
        "a]",
        "[*]",
    ]
    lines += [
        "a[]b]",
        "[b-a]",
        "[a-",
        "[[:alpha:]]",
        "[[:upper:]x]*",
        "[[:foo:]]",
        "[a\\]]",
        "[\\]-a]*",
        "[!a]/b",
    ]
    lines += ["/**/a", "a//b", "./a", "../a", "//", "a[!b]c"]
    own = random.Random(2)
    parts = [
        "a",
        " a",
        "a ",
        "a\nb",
        "[a]",
        "a\\b",
        "!a",
        "#a",
        "a*",
        "A",
        "-",
        "]",
        "a[",
        "\t",
        "a?c",
        "\x7f",
    ]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    files = {"/".join(own.choices(parts, k=own.randint(1, 3))) + ".txt" for _ in range(60)}
    tree(tmp_path, *files)
    for _ in range(25):
        chosen = own.choices(lines, k=3)
        write(tmp_path / ".gitignore", *(own.choice([line, f"{line}.txt"]) for line in chosen))
        done = subprocess.run(
            ["git", "-C", tmp_path, "ls-files", "-z", "--others", "--exclude-standard"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
        )
        result = {
            path.relative_to(tmp_path).as_posix()
            for path, _ in read_files([tmp_path], gitignore=True, on_error=lambda error: None)
        }
        assert result == {name for name in done.stdout.split("\0") if name.endswith(".txt")}, chosen


@pytest.mark.parametrize("pattern", ["*a*a*ab", "*a*a*a/*a*a*a/*a*a*ab", "**/a*/**/a*/b/**"])
def test_no_pattern_is_looked_for_in_all_ways_that_it_might_fit(tmp_path: Path, pattern: str) -> None:
    tree(tmp_path, f"{'a' * 200}/{'a' * 200}/{'a' * 200}.txt")
    start = time.perf_counter()
    assert names(tmp_path, exclude=pattern)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("data", [b"[\n" * 20_000, b"#" * (2 << 20)])
def test_a_file_that_is_no_list_of_patterns_takes_no_time(tmp_path: Path, data: bytes) -> None:
    tree(tmp_path, "a.txt")
    (tmp_path / ".nbceignore").write_bytes(data)
    errors: list[str] = []
    assert list(read_files([tmp_path], on_error=lambda error: errors.append(str(error))))
    assert len(errors) == 1
    assert "no list of patterns" in errors[0]


def test_of_many_lines_that_are_no_patterns_a_few_are_named(tmp_path: Path) -> None:
    tree(tmp_path, "a.txt", "b.txt")
    write(tmp_path / ".nbceignore", *["[b"] * 9000, "a.txt")
    errors: list[str] = []
    (path, _) = next(read_files([tmp_path], on_error=lambda error: errors.append(str(error))))
    assert path.name == "b.txt"
    assert len(errors) == 6
    assert "8995 more" in errors[-1]


def test_an_index_follows_patterns(tmp_path: Path) -> None:
    docs = tree(tmp_path / "docs", *FILES)
    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        assert len(index.sync_files([docs]).files_added) == len(FILES)
        report = index.sync_files([docs], exclude="/drafts/deep/")
        assert [Path(path).name for path in report.files_removed] == ["a.txt"]
        assert report.excluded == 1
        assert len(index) == len(FILES) - 1
        write(docs / ".nbceignore", "sub/")
        report = index.sync_files([docs], exclude="/drafts/deep/", keep_missing=True)
        assert (report.files_removed, len(report.files_missing), len(index)) == ((), 2, len(FILES) - 1)
        assert len(index.sync_files([docs], exclude="/drafts/deep/").files_removed) == 2
        assert set(index.sources()) == {
            str(docs / name) for name in ("a.txt", "b.md", "drafts/a.txt", "drafts/keep.txt")
        }
        with pytest.raises(InputError, match="gone or excluded"):
            index.sync_files([docs], exclude="*.txt")
        (docs / ".nbceignore").unlink()
        assert len(index.sync_files([docs]).files_added) == 3
        # What is added by its own name stays where a folder is only added to.
        assert index.add_files([docs], exclude="*").files_added == 0
        assert len(index) == len(FILES)


def test_a_link_that_is_excluded_does_not_exclude_what_it_leads_to(tmp_path: Path) -> None:
    docs = tree(tmp_path / "docs", "a.txt", "sub/b.txt", "sub/.hidden.txt")
    (docs / "link").symlink_to(docs / "sub", target_is_directory=True)
    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        index.add_files([docs / "sub" / ".hidden.txt"])
        index.sync_files([docs])
        assert index.sync_files([docs], exclude="link").files_removed == ()
        assert len(index) == 3


def test_a_copy_of_what_is_excluded_and_kept_is_a_file_of_its_own(tmp_path: Path) -> None:
    docs = tree(tmp_path / "docs", "a.txt", "drafts/b.txt")
    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        index.sync_files([docs])
        shutil.copy(docs / "drafts" / "b.txt", docs / "b.txt")
        report = index.sync_files([docs], exclude="drafts/", keep_missing=True)
        assert report.files_missing == (str(docs / "drafts" / "b.txt"),)
        assert not report.files_moved
        assert len(index) == 3
        # Where it is not kept, the copy takes over what was made of it.
        assert index.sync_files([docs], exclude="drafts/").files_removed == (str(docs / "drafts" / "b.txt"),)


def test_patterns_in_utf_16_count(tmp_path: Path) -> None:
    tree(tmp_path, "a.txt", "b.txt")
    (tmp_path / ".nbceignore").write_text("a.txt\n!\n", encoding="utf-16")
    errors: list[str] = []
    result = list(read_files([tmp_path], on_error=lambda error: errors.append(str(error))))
    assert [path.name for path, _ in result] == ["b.txt"]
    assert len(errors) == 1


def test_the_command_takes_patterns(tmp_path: Path) -> None:
    docs = tree(tmp_path / "docs", *FILES)
    write(docs / ".gitignore", "b.md")
    command = ["index", str(docs), "--index", str(tmp_path / "index")]
    result = CliRunner().invoke(
        app, [*command, "--exclude", "drafts/", "--exclude", "/sub/a.txt", "--gitignore"]
    )
    assert result.exit_code == 0, result.output
    assert "Files: 1 added" in result.output
    assert "excluded: 4 files and folders" in result.output
    assert CliRunner().invoke(app, ["index", "--check", "--exclude", "a", *command[2:]]).exit_code != 0
