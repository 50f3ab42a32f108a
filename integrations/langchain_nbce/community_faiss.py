"""Taking over folders of langchain-community's FAISS store without running what is in their pickle."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import faiss as _faiss
import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from nbce_rag import InputError, Passage, ReadError, expand_home

from .vector_store import PassageVectorStore, stored_passage

__all__ = ["import_community_faiss"]

faiss: Any = _faiss


class _Shell:
    """Stands in for a class of the pickle and keeps what it is given; it has no behaviour of its own."""

    def __init__(self) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Docstore(_Shell):
    pass


class _Document(_Shell):
    pass


_SHELLS: dict[tuple[str, str], type[_Shell]] = {
    **{
        (f"{package}.docstore.in_memory", "InMemoryDocstore"): _Docstore
        for package in ("langchain_community", "langchain", "langchain_classic")
    },
    **{
        (module, "Document"): _Document
        for module in (
            "langchain_core.documents.base",
            "langchain_core.documents",
            "langchain.schema.document",
            "langchain.schema",
            "langchain.docstore.document",
        )
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Shell]:
        """Shells for the classes that belong there; anything else is refused."""
        shell = _SHELLS.get((module, name))
        if shell is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which has no business in it")
        return shell

    def persistent_load(self, pid: object) -> NoReturn:
        """Refused."""
        raise pickle.UnpicklingError("it asks for an object from elsewhere")


def import_community_faiss(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    embedding: Embeddings,
    *,
    index_name: str = "index",
    reembed: bool = False,
) -> PassageVectorStore:
    """A passage index of a folder that `FAISS.save_local` of langchain-community wrote.

    Its pickle is read with two harmless classes allowed, and refused when it asks for any other, so that
    nothing of it is executed. Ids, texts, metadata and vectors are taken over; scores are cosines from then
    on, whatever the old store measured.

    Args:
        folder: with `index.faiss` and `index.pkl`.
        path: folder of the index; new, or one that was made with the same embedding.
        embedding: the one that the old store was made with.
        index_name: the name given to `save_local`.
        reembed: embed the texts anew instead of taking the old vectors over.

    Raises:
        ReadError: files are missing or damaged, do not fit together, or the pickle holds something else.
        InputError: the vectors cannot be read back (reembed=True helps), or fit the embedding not.
    """
    base = Path(expand_home(folder))
    files = {kind: base / f"{index_name}.{kind}" for kind in ("faiss", "pkl")}
    for file in files.values():
        if not file.is_file():
            raise ReadError(f"{file}: there is no such file; give a folder that FAISS.save_local() wrote.")
    documents, places = _read_pickle(files["pkl"])
    passages = [_passage(id_, documents[id_]) for _, id_ in sorted(places.items())]
    store = PassageVectorStore(path, embedding)
    if reembed:
        store.index.add(passages)
        return store
    try:
        vectors = _read_vectors(files["faiss"], sorted(places))
        store.index.add(passages, vectors=vectors)
    except BaseException:
        store.close()
        raise
    return store


def _read_pickle(file: Path) -> tuple[dict[str, _Document], dict[int, str]]:
    try:
        value = _Unpickler(io.BytesIO(file.read_bytes())).load()
    except Exception as error:  # damaged pickles raise anything
        raise ReadError(f"{file}: cannot be taken over: {error}.") from error
    wrong = ReadError(f"{file}: does not hold the documents and places that FAISS.save_local() writes.")
    if not (isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], _Docstore)):
        raise wrong
    state = value[0].state
    documents = state.get("_dict") if isinstance(state, Mapping) else None
    places = value[1]
    if not isinstance(documents, dict) or not isinstance(places, dict):
        raise wrong
    if not all(isinstance(place, int) and id_ in documents for place, id_ in places.items()):
        raise wrong
    if not all(isinstance(document, _Document) for document in documents.values()):
        raise wrong
    return documents, places


def _passage(id_: str, document: _Document) -> Passage:
    state = document.state
    fields = state.get("__dict__", state) if isinstance(state, Mapping) else None
    if not isinstance(fields, Mapping) or not isinstance(fields.get("page_content"), str):
        raise ReadError(f"Document {id_!r} of the old store has no text.")
    return stored_passage(
        fields["page_content"], dict(fields.get("metadata") or {}), str(fields.get("id") or id_)
    )


def _read_vectors(file: Path, places: list[int]) -> NDArray[np.float32]:
    try:
        index = faiss.read_index(str(file))
    except RuntimeError as error:
        raise ReadError(f"{file}: cannot be read by FAISS ({str(error).splitlines()[0]}).") from error
    if places != list(range(index.ntotal)):
        raise ReadError(
            f"{file}: has {index.ntotal} vectors for {len(places)} documents; the two files were not "
            "saved together."
        )
    try:
        vectors: NDArray[np.float32] = (
            index.reconstruct_n(0, index.ntotal) if index.ntotal else np.empty((0, index.d), np.float32)
        )
    except RuntimeError as error:
        raise InputError(
            f"{file}: this kind of FAISS index does not give its vectors back; use reembed=True."
        ) from error
    return vectors
