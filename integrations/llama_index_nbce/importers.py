"""Taking over what LlamaIndex's FAISS stores have persisted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.index_store import SimpleIndexStore
from numpy.typing import NDArray

from nbce_rag import IndexNotFoundError, InputError, expand_home

from .persistence import file_name
from .store import PassageVectorStore

__all__ = ["import_faiss_store"]

faiss: Any = _faiss  # it has no type stubs


def import_faiss_store(
    persist_dir: str | os.PathLike[str],
    path: str | os.PathLike[str],
    embed_model: BaseEmbedding | str | None = None,
    *,
    namespace: str = "default",
) -> PassageVectorStore:
    """Makes a passage index of a persisted `FaissVectorStore` or `FaissMapVectorStore` and its docstore.

    Vectors are taken over, so nothing is embedded. They are compared by cosine from then on, also where
    the FAISS index measured squared distances. Nothing in the files is executed.

    Args:
        persist_dir: what `StorageContext.persist` wrote: the FAISS file, `docstore.json`,
            `index_store.json`, and `id_map.json` of a `FaissMapVectorStore`.
        path: folder of the new index.
        embed_model: what made the vectors, so that questions can be asked as text; default: none, for
            questions as vectors and for `VectorStoreIndex`, which embeds them itself.
        namespace: of the vector store in its `StorageContext`.

    Returns:
        The store. Nodes whose vector or text is lost, as `FaissMapVectorStore` loses some after a deletion,
        are missing from it.

    Raises:
        IndexNotFoundError: there is no such file.
        InputError: the file is not one of FAISS, or no node is left.
    """
    folder = Path(expand_home(persist_dir))
    file = folder / file_name(namespace)
    if not file.is_file():
        raise IndexNotFoundError(f"There is no {file}; give the folder that StorageContext.persist wrote.")
    try:
        index = faiss.read_index(str(file))
    except RuntimeError as error:
        raise InputError(f"{file} is not a file of FAISS; is it of another vector store?") from error
    vectors = _vectors(index)
    documents = SimpleDocumentStore.from_persist_dir(str(folder)).docs
    nodes = []
    for number, node_id in _node_ids(folder).items():
        node = documents.get(node_id)
        if node is not None and number in vectors:
            node = node.model_copy()
            node.embedding = vectors[number].tolist()
            nodes.append(node)
    if not nodes:
        raise InputError(f"No node of {folder} has both a vector and a text; is its docstore.json there?")
    store = PassageVectorStore.create(path, embed_model, dimension=int(index.d))
    store.add(nodes)
    return store


def _vectors(index: Any) -> dict[int, NDArray[np.float32]]:
    """Vectors by their FAISS id."""
    if hasattr(index, "id_map"):
        numbers = faiss.vector_to_array(index.id_map).tolist()
        inner = faiss.downcast_index(index.index)
    else:
        numbers, inner = list(range(index.ntotal)), index
    rows = inner.reconstruct_n(0, inner.ntotal) if inner.ntotal else np.zeros((0, index.d))
    return dict(zip(numbers, rows, strict=True))


def _node_ids(folder: Path) -> dict[int, str]:
    """Node ids by FAISS id."""
    file = folder / "id_map.json"
    if file.is_file():
        stored = json.loads(file.read_text(encoding="utf-8"))["faiss_id_to_node_id_map"]
        return {int(number): str(node_id) for number, node_id in stored.items()}
    ids: dict[int, str] = {}
    for struct in SimpleIndexStore.from_persist_dir(str(folder)).index_structs():
        for number, node_id in getattr(struct, "nodes_dict", {}).items():
            if str(number).isdigit():
                ids[int(number)] = str(node_id)
    return ids
