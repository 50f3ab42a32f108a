"""LangChain documents and our passages, each made of the other; documents between marks in a prompt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.documents import Document
from langchain_core.prompts import BasePromptTemplate, PromptTemplate, StringPromptTemplate, format_document
from pydantic import Field, SecretStr

from nbce_rag import InputError, Passage, format_passage

from .retrievals import document_of, listen, remember

__all__ = [
    "SCORE_KEY",
    "ContextLike",
    "MarkedText",
    "PassagePrompt",
    "format_passages",
    "is_context",
    "mark_documents",
    "to_document",
    "to_passage",
    "to_passages",
]

SCORE_KEY = "relevance_score"
"""Where LangChain's rerankers put a document's score, and where our retriever does."""

ContextLike = Document | str | Mapping[str, Any] | Passage | tuple[Any, float]
"""What may be given as a context; a tuple is one of the others with its score."""

_CONSTRUCTOR = {"lc", "type", "kwargs"}


class MarkedText(str):
    """Text with marked passages that remembers the documents it was made of.

    Attributes:
        documents: the documents, in the order of the text.
    """

    documents: tuple[Document, ...]

    def __new__(cls, text: str, documents: Iterable[Document] = ()) -> MarkedText:
        """A string with documents beside it."""
        made = super().__new__(cls, text)
        made.documents = tuple(documents)
        return made


def to_passage(context: ContextLike, *, score_key: str = SCORE_KEY) -> Passage:
    """A passage of a document, a text, a dict, or a pair of one of these and a score.

    Dicts are documents that a checkpoint or JSON has turned into one (`page_content`, `metadata`, `id`),
    also as LangChain's serialized constructors, or plain ones with `text` or `content` in place of
    `page_content`. `metadata` gives `title`, `source` and, under `score_key`, the score.

    Raises:
        InputError: it is none of these; the message names its type.
    """
    if isinstance(context, Passage):
        return context
    if isinstance(context, str):
        return Passage(context)
    if isinstance(context, Document):
        return _from_fields(context.page_content, context.metadata, context.id, score_key)
    if isinstance(context, Mapping):
        fields: Mapping[str, Any] = context
        if fields.keys() >= _CONSTRUCTOR and isinstance(fields["kwargs"], Mapping):
            fields = fields["kwargs"]
        text = next(
            (fields[k] for k in ("page_content", "text", "content") if isinstance(fields.get(k), str)), None
        )
        if text is not None:
            metadata = {k: fields[k] for k in ("title", "source", score_key) if fields.get(k) is not None}
            metadata.update(fields.get("metadata") or {})
            metadata.setdefault(score_key, fields.get("score"))
            return _from_fields(text, metadata, fields.get("id"), score_key)
    if isinstance(context, (tuple, list)) and len(context) == 2 and _number(context[1]) is not None:
        passage = to_passage(context[0], score_key=score_key)
        return _scored(passage, _number(context[1]))
    raise InputError(
        f"A {type(context).__name__} is no context; give a Document, a text, a dict with 'page_content', or "
        f"a tuple of one of these and its score. It was {_short(context)}."
    )


def to_passages(contexts: Iterable[ContextLike], *, score_key: str = SCORE_KEY) -> list[Passage]:
    """Passages of many contexts. Scores that are no cosines are brought into [0, 1] by the logistic function.

    Raises:
        InputError: not a sequence of contexts.
    """
    if isinstance(contexts, (str, Mapping, Document, Passage)) or not isinstance(contexts, Iterable):
        raise InputError(
            f"contexts must be a list of documents or texts, not {_short(contexts)}; put it into a list."
        )
    passages = [to_passage(context, score_key=score_key) for context in contexts]
    if any(p.score is not None and abs(p.score) > 1 for p in passages):  # a reranker's logits
        return [p if p.score is None else _scored(p, _logistic(p.score)) for p in passages]
    return passages


def to_document(passage: Passage, *, score_key: str | None = None) -> Document:
    """A document of a passage.

    Title, source and span go into the metadata as `title`, `source`, `start_index` and `end_index`, unless
    its own metadata has these; with `score_key` the score does too.
    """
    own = {
        "title": passage.title,
        "source": passage.source,
        "start_index": passage.start,
        "end_index": passage.end,
        score_key or "": passage.score if score_key else None,
    }
    metadata = {name: value for name, value in own.items() if value is not None}
    # Names that begin with an underscore are another adapter's bookkeeping, not the document's metadata.
    metadata.update(
        (name, value)
        for name, value in passage.metadata.items()
        if name != score_key and not name.startswith("_")
    )
    document = Document(id=passage.id, page_content=passage.text, metadata=metadata)
    remember([document])
    return document


def is_context(value: Any) -> bool:
    """Whether `to_passage` takes it, plain texts excepted."""
    if isinstance(value, (str, bytes)):
        return False
    try:
        to_passage(value)
    except InputError:
        return False
    return True


def format_passages(
    documents: Iterable[ContextLike], *, separator: str = "\n\n", key: str | None = None
) -> MarkedText:
    """Documents as one text between marks, in place of the usual `format_docs`.

    `{"context": retriever | format_passages, "question": RunnablePassthrough()} | prompt | llm`. Models
    other than ours read the texts; the marks are characters that are not shown.

    Args:
        documents: documents, texts, dicts, or pairs with a score.
        separator: stands between them.
        key: see `mark_key` of `ChatNBCE`; for use in a chain: `partial(format_passages, key=...)`.
    """
    contexts = list(documents)
    text = separator.join(format_passage(passage, key=key) for passage in to_passages(contexts))
    return MarkedText(text, [context for context in contexts if isinstance(context, Document)])


class PassagePrompt(StringPromptTemplate):
    """A `document_prompt` that marks each document, for `create_stuff_documents_chain` and its kin.

    LangChain hands a document prompt the text and the metadata that it names. Id, title, source and score
    come from the document itself, which is known if a retriever found it after the first of these prompts
    was made, or if one of our stores made it (`langchain_nbce.retrievals`). Of other documents, as those that
    a program makes or copies between retriever and prompt, only what the template names is known: the id is
    then made of the text, there is no score, and no title that the template leaves out.
    `create_nbce_documents_chain` and `format_passages` take documents whole, wherever they are from.

    Attributes:
        template: wording of one document, an f-string template over `page_content` and its metadata. With
            another than the default the title is left to it.
        score_key: where the metadata holds the score.
        mark_key: see `ChatNBCE`.
    """

    template: str = "{page_content}"
    input_variables: list[str] = Field(default=["page_content"])
    score_key: str = SCORE_KEY
    mark_key: SecretStr | None = None

    def __init__(self, template: str = "{page_content}", **kwargs: Any) -> None:
        variables = {"page_content", *PromptTemplate.from_template(template).input_variables}
        super().__init__(**{"input_variables": sorted(variables), **kwargs, "template": template})
        listen()

    def format(self, **kwargs: Any) -> str:
        """The document between marks; `kwargs` are its text and the metadata that the template names."""
        document = document_of(kwargs.get("page_content"))
        text = PromptTemplate.from_template(self.template).format(**kwargs)
        metadata = dict(kwargs if document is None else document.metadata)
        if self.template != "{page_content}":
            metadata.pop("title", None)
        id_ = document.id if document else None
        key = self.mark_key.get_secret_value() if self.mark_key else None
        return format_passage(_from_fields(text, metadata, id_, self.score_key), key=key)

    async def aformat(self, **kwargs: Any) -> str:
        """As `format`."""
        return self.format(**kwargs)

    def format_document(self, document: Document) -> str:
        """One document between marks, with id, title, source and score in the header."""
        remember([document])
        return format_document(document, self)

    @property
    def _prompt_type(self) -> str:
        return "nbce-passage"


def mark_documents(
    documents: Sequence[Document], prompt: BasePromptTemplate[str] | None, *, separator: str, key: str | None
) -> MarkedText:
    """Documents worded by any document prompt, or by none, each between marks."""
    if prompt is None:
        return format_passages(documents, separator=separator, key=key)
    if isinstance(prompt, PassagePrompt):
        return MarkedText(separator.join(map(prompt.format_document, documents)), documents)
    texts = [
        format_passage(replace(passage, title=None), text=format_document(document, prompt), key=key)
        for passage, document in zip(to_passages(documents), documents, strict=True)
    ]
    return MarkedText(separator.join(texts), documents)


def _from_fields(text: str, metadata: Mapping[str, Any], id_: Any, score_key: str) -> Passage:
    title, source = metadata.get("title"), metadata.get("source")
    return Passage(
        text,
        id=str(id_) if id_ is not None else "",
        title=title if isinstance(title, str) and title.strip() else None,
        source=source if isinstance(source, str) and source else None,
        metadata=dict(metadata),
        score=_number(metadata.get(score_key)),
    )


def _scored(passage: Passage, score: float | None) -> Passage:
    return replace(passage, score=score)


def _number(value: Any) -> float | None:
    """A finite float, also of numpy's and of text; None for anything else."""
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, value))))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
