"""What `StorageContext.persist` leaves for a passage index: a JSON file that names its folder."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from nbce_rag import IndexFolder, IndexNotFoundError, InputError, PassageIndex, expand_home

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["file_name", "folder_of", "locate", "persist"]

_FORMAT = "nbce_rag.passage_index"
_HINT = (
    "A PassageVectorStore was persisted here. Load it with StorageContext.from_defaults(persist_dir=folder, "
    "vector_store=PassageVectorStore.open(folder))."
)


def file_name(namespace: str) -> str:
    """What LlamaIndex calls the file of a vector store."""
    return f"{namespace}__vector_store.json"


def folder_of(path: str | os.PathLike[str]) -> Path | str:
    """The folder of an index: itself, or what a file of `persist` or a folder with one such file names.

    A path that is none of these is given back, for whoever opens it to say what is missing, and so is the URL
    of an index in a database.
    """
    if isinstance(path, str) and "://" in path:
        return path
    place = Path(expand_home(path))
    if place.is_file():
        return locate(str(place))
    if place.is_dir() and not IndexFolder(place).database.exists():
        notes = sorted(place.glob(file_name("*")))
        ours = [note for note in notes if _is_ours(note)]
        if len(ours) == 1:
            return locate(str(ours[0]))
    return place


def _is_ours(note: Path) -> bool:
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == _FORMAT


def persist(index: PassageIndex, persist_path: str, fs: AbstractFileSystem | None = None) -> None:
    """Writes the file; to another file system than the local one, and a copy of the passages beside it."""
    if fs is None or _is_local(fs):
        path = Path(expand_home(persist_path))
        path.parent.mkdir(parents=True, exist_ok=True)
        note = _note(os.path.relpath(index.path.resolve(), path.parent.resolve()))
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.write_text(note, encoding="utf-8")
        os.replace(temporary, path)
        return
    folder = f"{persist_path.removesuffix('.json')}.passages"
    fs.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        copy = IndexFolder(index.path).copy(work).database
        fs.put(str(copy), f"{folder}/{copy.name}")
    with fs.open(persist_path, "w", encoding="utf-8") as stream:
        stream.write(_note(folder.rpartition("/")[2]))


def locate(
    persist_path: str, fs: AbstractFileSystem | None = None, into: str | os.PathLike[str] | None = None
) -> Path:
    """The folder that a file tells of, fetched into a local one if need be.

    Raises:
        IndexNotFoundError: there is no such file.
        InputError: it is the file of another vector store.
    """
    remote = None if fs is None or _is_local(fs) else fs
    try:
        if remote is not None:
            with remote.open(persist_path, "r", encoding="utf-8") as stream:
                note = json.load(stream)
        else:
            note = json.loads(Path(expand_home(persist_path)).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise IndexNotFoundError(
            f"There is no {persist_path}: persist a StorageContext with a PassageVectorStore there first."
        ) from error
    except ValueError as error:
        raise InputError(f"{persist_path} is not JSON; it belongs to another vector store.") from error
    if not isinstance(note, dict) or note.get("format") != _FORMAT:
        raise InputError(f"{persist_path} belongs to another vector store than PassageVectorStore.")
    if remote is None:
        return (Path(expand_home(persist_path)).parent / str(note["path"])).resolve()
    folder = IndexFolder(into if into is not None else tempfile.mkdtemp(prefix="nbce-rag-"))
    folder.make()
    source = f"{persist_path.rpartition('/')[0]}/{note['path']}/{folder.database.name}"
    remote.get(source, str(folder.database))
    return folder.path


def _is_local(fs: AbstractFileSystem) -> bool:
    protocol = fs.protocol if isinstance(fs.protocol, (list, tuple)) else [fs.protocol]
    return "file" in protocol or "local" in protocol


def _note(path: str) -> str:
    # LlamaIndex's own store, which is tried on this file when no store is given, must fail on it: else it
    # would load as a store without vectors, and find nothing. It takes the hint for a number of a vector, and
    # its error repeats it; readers that do not look at numbers fail on the next field.
    fields = {"embedding_dict": {"hint": [_HINT]}, "text_id_to_ref_doc_id": _HINT}
    return json.dumps({"format": _FORMAT, "version": 1, "path": path, **fields})
