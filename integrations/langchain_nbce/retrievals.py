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
from weakref import WeakValueDictionary

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.tracers.context import register_configure_hook

__all__ = ["document_of", "listen", "remember"]

_documents: WeakValueDictionary[int, Document] = WeakValueDictionary()


def remember(documents: Iterable[Document]) -> None:
    """Keep documents in mind, so that `document_of` finds them."""
    for document in documents:
        _documents[id(document.page_content)] = document


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
        remember(document for document in documents if isinstance(document, Document))


_listener = _Listener()


@cache
def listen() -> None:
    """From now on, keep in mind what any retriever finds in this process."""
    register_configure_hook(ContextVar("nbce_retrievals", default=_listener), inheritable=False)
