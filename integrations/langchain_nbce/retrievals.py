"""Documents as retrievers found them, by their texts.

A document prompt is given a document's text and the metadata that it names (`format_document` of LangChain),
but neither its id nor metadata that only some documents have. LangChain tells callbacks what every retriever
found, though, and the text that a prompt is given afterwards is the very string that the document holds. So
documents are kept in mind by that string, as long as somebody else holds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from functools import cache
from typing import Any
from weakref import WeakValueDictionary, finalize

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.tracers.context import register_configure_hook

__all__ = ["document_of", "listen", "rank_of", "remember", "remember_ranked"]

_documents: WeakValueDictionary[int, Document] = WeakValueDictionary()
_ranks: dict[int, int] = {}


def remember(documents: Iterable[Document]) -> None:
    """Keep documents in mind, so that `document_of` finds them."""
    for document in documents:
        _documents[id(document.page_content)] = document


def remember_ranked(documents: Iterable[Document]) -> None:
    """As `remember`, of the documents of one retrieval, the best first."""
    for rank, document in enumerate(documents, 1):
        remember([document])
        key = id(document.page_content)
        if key not in _ranks:
            finalize(document, _ranks.pop, key, None)
        _ranks[key] = rank


def rank_of(document: Document | None) -> int | None:
    """The place of a document in the last retrieval that found it; None if that is not known."""
    return None if document is None else _ranks.get(id(document.page_content))


def document_of(text: Any) -> Document | None:
    """The document that holds this string, the same object; None if it is not in mind."""
    document = _documents.get(id(text))
    return document if document is not None and document.page_content is text else None


class _Listener(BaseCallbackHandler):
    """Looks at retrievers' results and at nothing else."""

    run_inline = True
    ignore_agent = ignore_chain = ignore_chat_model = True
    ignore_custom_event = ignore_llm = ignore_retry = True

    def on_retriever_end(self, documents: Sequence[Document], **kwargs: Any) -> None:
        remember_ranked(document for document in documents if isinstance(document, Document))


_listener = _Listener()


@cache
def listen() -> None:
    """From now on, keep in mind what any retriever finds in this process."""
    register_configure_hook(ContextVar("nbce_retrievals", default=_listener), inheritable=False)
