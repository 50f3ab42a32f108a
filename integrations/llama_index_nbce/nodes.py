"""LlamaIndex's nodes as passages of an index, and passages of any origin as nodes.

A node becomes a passage with its text, its metadata, and, under one reserved key of the metadata, what
else makes it a node. Passages that others wrote become text nodes whose wording is the passage's text.
"""

from __future__ import annotations

import json
from datetime import date, time
from typing import Any

from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageNode,
    MetadataMode,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node

from nbce_rag import InputError, Passage

__all__ = ["NODE_KEY", "holds_media", "is_blank", "node_of", "passage_of", "ref_doc_id_of", "user_metadata"]

NODE_KEY = "_llama_index"
"""Key of a passage's metadata that holds the rest of a node: {"type": .., "ref_doc_id": .., "node": {..}},
and "metadata", their JSON text, where an index would change their order."""

_OTHER_FIELDS = ("text", "metadata", "embedding", "id_", "class_name", "text_resource")


def is_blank(node: BaseNode) -> bool:
    """Whether a node could be stored if it held any text: nothing but blanks, and nothing of another kind."""
    plain = isinstance(node, (Document, TextNode)) and not holds_media(node)
    return plain and not node.get_content(metadata_mode=MetadataMode.NONE).strip()


def holds_media(node: BaseNode) -> bool:
    """Whether an image, a sound or a film is in a node or is what it stands for."""
    others = any(getattr(node, f"{kind}_resource", None) for kind in ("image", "audio", "video"))
    return others or isinstance(node, ImageNode)


def passage_of(node: BaseNode) -> Passage:
    """A node as a passage; its source is the metadata's `source` or `file_path`, else its document's id.

    A whole document becomes a text node of itself.

    Raises:
        InputError: it holds anything but text, or metadata that JSON cannot.
    """
    if isinstance(node, Document):
        node = _text_node(node)
    if not isinstance(node, TextNode) or isinstance(node, ImageNode):
        raise InputError(
            f"Node {node.node_id!r} is a {type(node).__name__}; a PassageVectorStore holds text nodes."
        )
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    if not text.strip():
        raise InputError(f"Node {node.node_id!r} has no text; leave it out.")
    if any(isinstance(value, date | time) for value in node.metadata.values()):
        metadata = {name: _plain_time(value) for name, value in node.metadata.items()}
        node = node.model_copy(update={"metadata": metadata})
    try:
        written = json.dumps(node.metadata, allow_nan=False)
        content = {
            key: value
            for key, value in json.loads(node.to_json()).items()
            if key not in _OTHER_FIELDS and value not in (None, {}, [])
        }
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The metadata of node {node.node_id!r} cannot be JSON ({error}); make them text."
        ) from error
    rest: dict[str, Any] = {"type": node.class_name(), "ref_doc_id": node.ref_doc_id, "node": content}
    if written != json.dumps(node.metadata, sort_keys=True):
        rest["metadata"] = written  # their order is a part of the wording, and an index sorts them
    title = node.metadata.get("title")
    source = node.metadata.get("source") or node.metadata.get("file_path") or node.ref_doc_id
    return Passage(
        text,
        id=node.node_id,
        title=title if isinstance(title, str) and title else None,
        source=source if isinstance(source, str) else None,
        start=node.start_char_idx,
        end=node.end_char_idx,
        metadata={**node.metadata, NODE_KEY: rest},
    )


def _plain_time(value: Any) -> Any:
    """A date or a time as ISO 8601 writes it, which sorts as they do; anything else as it is."""
    return value.isoformat() if isinstance(value, date | time) else value


def _text_node(document: Document) -> TextNode:
    if holds_media(document):
        raise InputError(f"Document {document.node_id!r} holds more than text; extract its text first.")
    node = TextNode(
        id_=document.node_id,
        text=document.get_content(metadata_mode=MetadataMode.NONE),
        embedding=document.embedding,
        metadata=document.metadata,
        excluded_embed_metadata_keys=document.excluded_embed_metadata_keys,
        excluded_llm_metadata_keys=document.excluded_llm_metadata_keys,
        relationships=dict(document.relationships),
    )
    node.relationships.setdefault(NodeRelationship.SOURCE, RelatedNodeInfo(node_id=document.node_id))
    return node


def node_of(passage: Passage) -> TextNode:
    """A passage as a node. What LlamaIndex wrote comes back as it was, without its embedding."""
    stored = passage.metadata.get(NODE_KEY)
    metadata = user_metadata(passage)
    if isinstance(stored, dict):
        content = {**stored["node"], "metadata": metadata, "id_": passage.id}
        node = metadata_dict_to_node(
            {"_node_content": json.dumps(content), "_node_type": stored["type"]}, passage.text
        )
        assert isinstance(node, TextNode)
        if "metadata_separator" in content:  # older LlamaIndex (0.14.5) reads another spelling than it writes
            node.metadata_separator = content["metadata_separator"]
        return node
    # What LlamaIndex shows of metadata would change the wording that others embedded and asked about.
    hidden = sorted(metadata)
    node = TextNode(
        id_=passage.id,
        text=passage.text,
        metadata=metadata,
        start_char_idx=passage.start,
        end_char_idx=passage.end,
        excluded_llm_metadata_keys=hidden,
        excluded_embed_metadata_keys=hidden,
    )
    if passage.source:
        node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=passage.source)
    return node


def user_metadata(passage: Passage) -> dict[str, Any]:
    """Metadata as LlamaIndex shows it; passages of others have their `title` and `source` in it."""
    stored = passage.metadata.get(NODE_KEY)
    if isinstance(stored, dict) and "metadata" in stored:
        written: dict[str, Any] = json.loads(stored["metadata"])
        return written
    metadata = {key: value for key, value in passage.metadata.items() if key != NODE_KEY}
    if NODE_KEY not in passage.metadata:
        for key in ("title", "source"):
            value = getattr(passage, key)
            if value is not None:
                metadata.setdefault(key, value)
    return metadata


def ref_doc_id_of(passage: Passage) -> str | None:
    """The document that a passage belongs to; of passages that others wrote, their source."""
    stored = passage.metadata.get(NODE_KEY)
    if isinstance(stored, dict):
        ref_doc_id: str | None = stored["ref_doc_id"]
        return ref_doc_id
    return passage.source
