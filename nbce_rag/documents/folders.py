"""Reading files and folders into passages, file by file; what cannot be read is named and passed over."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from ..errors import ReadError, warn
from ..files import expand_home
from ..passages import Passage
from .document import OnError, Splitter
from .excludes import Excludes, Rules
from .limits import READ_LIMITS, ReadLimits
from .readers import KINDS, is_read, read_passages
from .splitting import TokenCounter, check_window, split_document

__all__ = ["file_key", "find_files", "path_of_key", "read_files"]


def read_files(
    paths: Iterable[str | Path],
    *,
    max_tokens: int = 200,
    overlap: int = 32,
    count_tokens: TokenCounter | None = None,
    on_error: OnError | None = None,
    exclude: str | Iterable[str] = (),
    gitignore: bool = False,
    limits: ReadLimits = READ_LIMITS,
) -> Iterator[tuple[Path, list[Passage]]]:
    """Reads files and folders into passages.

    Folders are read with all that is in them, sorted by path. In them are passed over: what is hidden (a
    name that begins with a dot), whatever patterns say; files of other types (files of unknown types are read
    where they are text, such as source code); links to folders, which are not followed, while links to files
    are; and what patterns exclude: those of `exclude`, and of files named `.nbceignore`. What is given by its
    own name is read in any case. A file that is reached
    twice is read once. The `source` of a passage is the file's path as it was given or found, with
    forward slashes. Spans count in the text of `read_document`; passages of a PDF have in
    `metadata["page"]` the page, from 1, that they start on, those of others "slide", "sheet", "chapter",
    "cell" or "row".

    A .jsonl or .jsonl.gz file holds one JSON object a line: `text`, and if wanted `id`, `title` and
    `metadata`; all other keys are added to the metadata. Its passages have spans in that `text`. The
    id is kept when the text makes one passage; more get `#1`, `#2`, ... after it.

    What is no regular file (a pipe, a device), and files over one of the limits, are passed over, and so are
    lines of JSON of more than 64 MiB or nested deeper than 64 levels. Bytes of a file's name that are not
    UTF-8 stand in the source as `\\xe9`.

    Text loses the noncharacters U+FDD0 to U+FDD3, which mark passages in prompts.

    Args:
        paths: Files and folders; one path alone will do.
        max_tokens: The most tokens of a passage.
        overlap: The most tokens that a passage repeats from the one before.
        count_tokens: Counts the tokens of a string; default
            `nbce_rag.documents.splitting.approximate_tokens`.
        on_error: Gets an error for each file, page or line that is passed over. Default: an `NbceWarning`.
            It may raise to stop the reading.
        exclude: Patterns as in `.gitignore`, relative to each folder that is given; they count before those
            of files.
        gitignore: Have `.gitignore` count too, before it `.nbceignore`; also in the folders above, up to
            that of the Git repository.
        limits: The most that one file may take.

    Returns:
        An iterator of (path, its passages in order), for files that gave at least one.

    Raises:
        InputError: `max_tokens` or `overlap` is out of range, or a pattern is none, at the call.
    """
    check_window(max_tokens, overlap)
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    splitter = partial(split_document, max_tokens=max_tokens, overlap=overlap, count_tokens=count_tokens)
    return _passages(paths, splitter, on_error or _warn, Excludes.of(exclude, gitignore), limits)


def _warn(error: ReadError) -> None:
    warn(f"Passed over: {error}")


def _passages(
    paths: Iterable[str | Path],
    splitter: Splitter,
    on_error: OnError,
    excludes: Excludes,
    limits: ReadLimits,
) -> Iterator[tuple[Path, list[Passage]]]:
    seen: set[str] = set()

    def fail(path: str, reason: str) -> None:
        on_error(ReadError(f"{path}: {reason}"))

    for path in find_files(paths, fail, excludes=excludes):
        if (name := file_key(path)) in seen:
            continue
        seen.add(name)
        try:
            passages = read_passages(path, splitter, on_error, limits)
        except ReadError as error:
            on_error(error)
        else:
            if passages:
                yield path, passages


def file_key(path: str | os.PathLike[str]) -> str:
    """What tells one file from others, however it is called: its real path, as text that can be stored."""
    try:
        real = os.path.realpath(expand_home(path))
    except (OSError, ValueError):  # no file can be there
        real = os.fspath(path)
    try:
        real.encode()
    except UnicodeEncodeError:
        return f"bytes:{os.fsencode(real).hex()}"
    return real


def path_of_key(key: str) -> str:
    """The real path that `file_key` made a key of."""
    return os.fsdecode(bytes.fromhex(key.removeprefix("bytes:"))) if key.startswith("bytes:") else key


def find_files(
    paths: Iterable[str | Path],
    on_failure: Callable[[str, str], None],
    on_other_type: Callable[[Path], None] | None = None,
    on_excluded: Callable[[Path], None] | None = None,
    excludes: Excludes | None = None,
) -> Iterator[Path]:
    """The files that are named, and those in the folders that are named which are of a known type, or text.

    Args:
        paths: files and folders.
        on_failure: told of each folder that gives none, or cannot be read, and why.
        on_other_type: told of each file in these folders that is passed over for its type.
        on_excluded: told of each file and folder in them that is passed over for a pattern.
        excludes: what is; default: what files of patterns say.
    """
    for path in map(Path, map(expand_home, paths)):
        if not _is_folder(path):
            yield path
            continue
        walk = _Walk(path, on_failure, on_other_type or _pass_over, on_excluded or _pass_over)
        files = sorted(walk.files(excludes or Excludes()))
        if not files:
            rest = " and is not excluded" if walk.has_excluded else ""
            on_failure(
                str(path),
                f"this folder holds no file that is read{rest}: {KINDS}. Check the path, or convert what is "
                "in it. Hidden files are passed over; a file that is given by its own name is not.",
            )
        yield from files


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a path that cannot be: too long, or with a NUL in it
        return False


def _pass_over(path: Path) -> None:
    pass


class _Walk:
    """What lies in a folder and those beneath."""

    def __init__(
        self,
        folder: Path,
        on_failure: Callable[[str, str], None],
        on_other_type: Callable[[Path], None],
        on_excluded: Callable[[Path], None],
    ) -> None:
        self.has_excluded = False
        self._folder = folder
        self._on_failure = on_failure
        self._on_other_type = on_other_type
        self._on_excluded = on_excluded

    def files(self, excludes: Excludes) -> Iterator[Path]:
        """Those of a known type that are not passed over."""
        rules = Rules(excludes, self._folder, self._on_failure)
        for parent, folders, names in os.walk(self._folder, onerror=self._fail):
            rules.enter(parent)
            folders[:] = [name for name in folders if self._counts(rules, parent, name, True)]
            for name in names:
                path = Path(parent, name)
                if name.startswith((".", "~$")):  # "~$": the mark of an office program that has a file open
                    continue
                # A name that is excluded is not opened to see whether it holds text.
                if not self._counts(rules, parent, name, False):
                    continue
                if is_read(path):
                    yield path
                else:
                    self._on_other_type(path)

    def _counts(self, rules: Rules, parent: str, name: str, is_folder: bool) -> bool:
        if name.startswith("."):
            return False
        if rules.excludes(parent, name, is_folder):
            self.has_excluded = True
            self._on_excluded(Path(parent, name))
            return False
        return True

    def _fail(self, error: OSError) -> None:
        self._on_failure(str(error.filename), f"cannot be read: {error.strerror}.")
