"""LangChain documents and our passages, each made of the other; documents between marks in a prompt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.documents import Document
from langchain_core.prompts import BasePromptTemplate, PromptTemplate, StringPromptTemplate, format_document
from pydantic import Field, SecretStr, model_validator

from nbce_rag import InputError, Passage, format_passage
from nbce_rag import format_passages as format_marked

from .retrievals import document_of, listen, rank_of, remember, remember_ranked

__all__ = [
    "KEY_SECRET",
    "SCORE_KEY",
    "ContextLike",
    "MarkedText",
    "PassagePrompt",
    "ScoredDocument",
    "check_key",
    "format_passages",
    "is_context",
    "mark_documents",
    "to_document",
    "to_passage",
    "to_passages",
    "with_score",
]

SCORE_KEY = "relevance_score"
"""Where LangChain's rerankers put a document's score, and where our retriever does."""

ContextLike = Document | str | Mapping[str, Any] | Passage | tuple[Any, float]
"""What may be given as a context; a tuple is one of the others with its score."""

KEY_SECRET = "NBCE_MARK_KEY"
"""The name under which `loads` is given the key of passage marks, in its `secrets_map`."""

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


class ScoredDocument(Document):
    """A document with the score of a retrieval in its metadata, which makes no other document of it.

    Retrievers that ask several times, as `MultiQueryRetriever` does, drop documents that equal one that they
    have. The same document has another score for another question.

    Attributes:
        score_key: where the metadata hold the score.
    """

    score_key: str = Field(default=SCORE_KEY, exclude=True, repr=False)

    @classmethod
    def lc_id(cls) -> list[str]:
        """A plain document's, which is what it is loaded as."""
        return Document.lc_id()

    @property
    def lc_attributes(self) -> dict[str, Any]:
        """None of its own."""
        return {}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Document):
            return NotImplemented
        return (self.id, self.page_content, self._own()) == (other.id, other.page_content, self._own(other))

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        """By a function, since the class goes by another name."""
        return _scored_document, (self.id, self.page_content, self.metadata, self.score_key)

    def _own(self, document: Document | None = None) -> dict[str, Any]:
        metadata = (document or self).metadata
        return {name: value for name, value in metadata.items() if name != self.score_key}


# LangGraph's checkpoints write a class by its name, and read none of others without being told of it.
ScoredDocument.__module__ = Document.__module__
ScoredDocument.__name__ = ScoredDocument.__qualname__ = Document.__name__


def _scored_document(id_: str | None, text: str, metadata: dict[str, Any], score_key: str) -> ScoredDocument:
    return ScoredDocument(id=id_, page_content=text, metadata=metadata, score_key=score_key)


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
    if isinstance(context, (tuple, list)) and len(context) == 2 and _is_number(context[1]):
        passage = to_passage(context[0], score_key=score_key)
        return replace(passage, score=_number(context[1]))
    raise InputError(
        f"A {type(context).__name__} is no context; give a Document, a text, a dict with 'page_content', or "
        f"a tuple of one of these and its score. It was {_short(context)}."
    )


def to_passages(contexts: Iterable[ContextLike], *, score_key: str = SCORE_KEY) -> list[Passage]:
    """Passages of many contexts, with the scores that they bring along (`nbce_rag.prompts.scores`).

    Documents and dicts are what a retriever found, the best first, so they get ranks. Texts have no order.

    Raises:
        InputError: not a sequence of contexts.
    """
    if isinstance(contexts, (str, Mapping, Document, Passage)) or not isinstance(contexts, Iterable):
        raise InputError(
            f"contexts must be a list of documents or texts, not {_short(contexts)}; put it into a list"
            f"{', or give what it finds: retriever.invoke(question)' if hasattr(contexts, 'invoke') else ''}."
        )
    return [
        passage
        if isinstance(context, (str, Passage)) or passage.rank is not None
        else replace(passage, rank=rank)
        for rank, context in enumerate(contexts, 1)
        for passage in [to_passage(context, score_key=score_key)]
    ]


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
    document = (
        Document(id=passage.id, page_content=passage.text, metadata=metadata)
        if score_key is None
        else ScoredDocument(id=passage.id, page_content=passage.text, metadata=metadata, score_key=score_key)
    )
    remember([document])
    return document


def with_score(document: Document, score: float, *, score_key: str = SCORE_KEY) -> Document:
    """The document with a score where `ChatNBCE` looks for it."""
    return ScoredDocument(
        id=document.id,
        page_content=document.page_content,
        metadata={**document.metadata, score_key: score},
        score_key=score_key,
    )


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
    if isinstance(documents, (str, Mapping, Document, Passage)) or not isinstance(documents, Iterable):
        raise InputError(
            f"format_passages takes a list of documents, not {_short(documents)}; put it into a list."
        )
    contexts = list(documents)
    text = format_marked(to_passages(contexts), separator=separator, key=key)
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

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Where it is; a prompt of LangChain's has a place that only its own are loaded from."""
        return cls.__module__.split(".")

    @property
    def lc_secrets(self) -> dict[str, str]:
        """The key is not written by `dumps`."""
        return {"mark_key": KEY_SECRET}

    @model_validator(mode="before")
    @classmethod
    def _check_key(cls, values: Any) -> Any:
        return check_key(values)

    def format(self, **kwargs: Any) -> str:
        """The document between marks; `kwargs` are its text and the metadata that the template names."""
        document = document_of(kwargs.get("page_content"))
        text = PromptTemplate.from_template(self.template).format(**kwargs)
        metadata = dict(kwargs if document is None else document.metadata)
        if self.template != "{page_content}":
            metadata.pop("title", None)
        id_ = document.id if document else None
        key = self.mark_key.get_secret_value() if self.mark_key else None
        passage = _from_fields(text, metadata, id_, self.score_key)
        return format_passage(replace(passage, rank=rank_of(document)), key=key)

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


def check_key(values: Any) -> Any:
    """A constructor's arguments as they are.

    Raises:
        InputError: `mark_key` is None, as `loads` gives it for a secret that it was not given. Marks that
            anybody made would count then.
    """
    if isinstance(values, dict) and "mark_key" in values and values["mark_key"] is None:
        raise InputError(
            f"mark_key is None: give loads secrets_map={{{KEY_SECRET!r}: key}}, or leave mark_key out."
        )
    return values


def mark_documents(
    documents: Sequence[Document], prompt: BasePromptTemplate[str] | None, *, separator: str, key: str | None
) -> MarkedText:
    """Documents worded by any document prompt, or by none, each between marks."""
    if prompt is None or not documents:
        return format_passages(documents, separator=separator, key=key)
    if isinstance(prompt, PassagePrompt):
        remember_ranked(documents)
        return MarkedText(separator.join(map(prompt.format_document, documents)), documents)
    texts = [
        format_passage(replace(passage, title=None), text=format_document(document, prompt), key=key)
        for passage, document in zip(to_passages(documents), documents, strict=True)
    ]
    return MarkedText(separator.join(texts), documents)


def _from_fields(text: str, metadata: Mapping[str, Any], id_: Any, score_key: str) -> Passage:
    id_ = metadata.get("_id") if id_ is None else id_  # where Qdrant's and MongoDB's stores put it
    title, source = metadata.get("title"), metadata.get("source")
    return Passage(
        text,
        id=str(id_) if id_ is not None else "",
        title=title if isinstance(title, str) and title.strip() else None,
        source=source if isinstance(source, str) and source else None,
        metadata=dict(metadata),
        score=_number(metadata.get(score_key)),
    )


def _is_number(value: Any) -> bool:
    """Whether it is a number or the text of one, NaN among them, which is a score that nobody knows."""
    if isinstance(value, bool):
        return False
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _number(value: Any) -> float | None:
    """A finite float, also of numpy's and of text; None for anything else."""
    return float(value) if _is_number(value) and math.isfinite(float(value)) else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
