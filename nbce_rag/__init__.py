"""nbce-rag: retrieval-augmented generation where every passage is a context of its own.

Importing this package loads neither torch nor faiss nor transformers; each name below loads what it
needs when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .fusion.registry import RULES as _RULES

__version__ = "0.1.0"

_NAMES = {
    "models.model": ("Model",),
    "engine.prefill": ("FillReport",),
    "errors": (
        "AnswerTimeoutError",
        "ContextLengthError",
        "EmbedderMismatchError",
        "IndexDamagedError",
        "IndexLockedError",
        "IndexNotFoundError",
        "InputError",
        "InputTypeError",
        "MissingDependencyError",
        "ModelError",
        "NbceError",
        "NbceWarning",
        "NumericalError",
        "PassageIndexError",
        "ReadError",
        "RemoteError",
        "StreamError",
        "UnsupportedError",
        "warn",
    ),
    "passages": ("Passage",),
    "options": ("Options",),
    "request": ("Request",),
    "answers.answer": (
        "Answer",
        "Piece",
    ),
    "answers.choices": ("ChoiceScores",),
    "answers.comparison": (
        "AnswerGroup",
        "Comparison",
    ),
    "answers.report": (
        "CitationsReport",
        "Report",
        "citation_report",
        "report_schema",
    ),
    "documents.folders": ("read_files",),
    "documents.limits": ("ReadLimits",),
    "documents.pdf.boxes": (
        "page_boxes",
        "PageBox",
    ),
    "documents.readers": ("read_document",),
    "embedding.embedder": ("Embedder",),
    "embedding.function": ("CallableEmbedder",),
    "embedding.resolve": ("EmbedderLike",),
    "embedding.sentence_transformer": (
        "canonical_embedder_name",
        "DEFAULT_EMBEDDER",
        "SentenceTransformerEmbedder",
    ),
    "client.engine": ("RemoteNBCE",),
    "engine.answerer": ("Answerer",),
    "engine.loading_arguments": ("LOADING_ARGUMENTS",),
    "engine.nbce": ("NBCE",),
    "engine.rag": ("Rag",),
    "evaluation.runner": ("evaluate",),
    "evidence.ablation": ("Ablation",),
    "evidence.conflict": ("Claim", "Conflict"),
    "evidence.word_likelihood": ("WordLikelihood",),
    "evidence.evidence": (
        "Timings",
        "Usage",
        "Citation",
        "Support",
        "TokenEvidence",
    ),
    "evidence.marks": ("citation_marks",),
    "evidence.passage_evidence": ("PassageEvidence",),
    "evidence.quote": ("Quote",),
    "evidence.unsupported": ("UnsupportedWords",),
    "files": ("expand_home",),
    "fusion": (
        *_RULES.classes,
        "Fused",
        "FusionRule",
        "FusionState",
    ),
    "fusion.registry": ("resolve_rule", "rule_fields"),
    "index": ("PassageIndex",),
    "index.encoder": ("embedding_text",),
    "index.filters.conditions": (
        "AllOf",
        "AnyOf",
        "as_condition",
        "Condition",
        "FieldTest",
        "Negation",
        "Predicate",
    ),
    "index.folder": ("IndexFolder",),
    "index.reranking": ("RerankerLike",),
    "index.search": (
        "SearchMode",
        "SearchOptions",
    ),
    "kv.store": ("PassageKVStore",),
    "live.notebook": ("show",),
    "models.loading": (
        "load_model",
        "DEFAULT_MODEL",
    ),
    "prompts.chat_template": (
        "TURN_MARKS",
        "messages_as_text",
        "with_instruction",
    ),
    "prompts.conversation": (
        "Conversation",
        "resolve",
        "Turn",
    ),
    "prompts.marks": (
        "format_passage",
        "format_passages",
        "mark_places",
        "split_marks",
    ),
    "prompts.prompt": ("Prompt",),
    "prompts.scores": (
        "as_cosine",
        "check_score_scale",
    ),
    "prompts.schemas": (
        "closed_schema",
        "response_schema",
    ),
    "prompts.template": ("PromptTemplate",),
    "prompts.tools": (
        "distinct_tools",
        "forced_tools",
        "Tool",
        "tool_call_schema",
        "tool_names",
        "ToolCall",
        "ToolCallReader",
        "UnreadableCall",
    ),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
__all__ = [
    "TURN_MARKS",
    "load_model",
    "Model",
    "FillReport",
    "Ablation",
    "AnswerGroup",
    "WordLikelihood",
    "Timings",
    "Usage",
    "AllOf",
    "Answer",
    "Answerer",
    "AnswerTimeoutError",
    "LOADING_ARGUMENTS",
    "AnyOf",
    "as_condition",
    "as_cosine",
    "CallableEmbedder",
    "canonical_embedder_name",
    "ChoiceScores",
    "Citation",
    "Claim",
    "Conflict",
    "check_score_scale",
    "citation_marks",
    "closed_schema",
    "Comparison",
    "Condition",
    "ContextLengthError",
    "Conversation",
    "DEFAULT_EMBEDDER",
    "DEFAULT_MODEL",
    "distinct_tools",
    "Embedder",
    "EmbedderLike",
    "EmbedderMismatchError",
    "embedding_text",
    "evaluate",
    "expand_home",
    "Experts",
    "FieldTest",
    "forced_tools",
    "format_passage",
    "format_passages",
    "Fused",
    "FusionRule",
    "FusionState",
    "IndexDamagedError",
    "IndexFolder",
    "IndexLockedError",
    "IndexNotFoundError",
    "InputError",
    "InputTypeError",
    "mark_places",
    "Max",
    "Mean",
    "messages_as_text",
    "MinEntropy",
    "MissingDependencyError",
    "ModelError",
    "NBCE",
    "NbceError",
    "NbceWarning",
    "Negation",
    "NumericalError",
    "Options",
    "page_boxes",
    "PageBox",
    "Passage",
    "PassageEvidence",
    "PassageIndex",
    "PassageIndexError",
    "PassageKVStore",
    "Piece",
    "Posterior",
    "Predicate",
    "Prompt",
    "PromptTemplate",
    "Quote",
    "Rag",
    "read_document",
    "read_files",
    "ReadError",
    "ReadLimits",
    "Report",
    "CitationsReport",
    "citation_report",
    "report_schema",
    "Request",
    "RemoteError",
    "RemoteNBCE",
    "RerankerLike",
    "resolve",
    "resolve_rule",
    "response_schema",
    "rule_fields",
    "SearchMode",
    "SearchOptions",
    "SentenceTransformerEmbedder",
    "show",
    "split_marks",
    "StreamError",
    "Support",
    "TokenEvidence",
    "Tool",
    "tool_call_schema",
    "tool_names",
    "ToolCall",
    "ToolCallReader",
    "Turn",
    "UnreadableCall",
    "UnsupportedError",
    "UnsupportedWords",
    "warn",
    "with_instruction",
    "__version__",
]
# Rules beyond these are of any type to type checkers.
__all__ += [name for name in _HOME if name not in __all__]

if TYPE_CHECKING:
    from .answers.answer import Answer, Piece
    from .answers.choices import ChoiceScores
    from .answers.comparison import AnswerGroup, Comparison
    from .answers.report import CitationsReport, Report, citation_report, report_schema
    from .client.engine import RemoteNBCE
    from .documents.folders import read_files
    from .documents.limits import ReadLimits
    from .documents.pdf.boxes import PageBox, page_boxes
    from .documents.readers import read_document
    from .embedding.embedder import Embedder
    from .embedding.function import CallableEmbedder
    from .embedding.resolve import EmbedderLike
    from .embedding.sentence_transformer import (
        DEFAULT_EMBEDDER,
        SentenceTransformerEmbedder,
        canonical_embedder_name,
    )
    from .engine.answerer import Answerer
    from .engine.loading_arguments import LOADING_ARGUMENTS
    from .engine.nbce import NBCE
    from .engine.prefill import FillReport
    from .engine.rag import Rag
    from .errors import (
        AnswerTimeoutError,
        ContextLengthError,
        EmbedderMismatchError,
        IndexDamagedError,
        IndexLockedError,
        IndexNotFoundError,
        InputError,
        InputTypeError,
        MissingDependencyError,
        ModelError,
        NbceError,
        NbceWarning,
        NumericalError,
        PassageIndexError,
        ReadError,
        RemoteError,
        StreamError,
        UnsupportedError,
        warn,
    )
    from .evaluation.runner import evaluate
    from .evidence.ablation import Ablation
    from .evidence.conflict import Claim, Conflict
    from .evidence.evidence import Citation, Support, Timings, TokenEvidence, Usage
    from .evidence.marks import citation_marks
    from .evidence.passage_evidence import PassageEvidence
    from .evidence.quote import Quote
    from .evidence.unsupported import UnsupportedWords
    from .evidence.word_likelihood import WordLikelihood
    from .files import expand_home
    from .fusion import Experts, Fused, FusionRule, FusionState, Max, Mean, MinEntropy, Posterior
    from .fusion.registry import resolve_rule, rule_fields
    from .index import PassageIndex
    from .index.encoder import embedding_text
    from .index.filters.conditions import (
        AllOf,
        AnyOf,
        Condition,
        FieldTest,
        Negation,
        Predicate,
        as_condition,
    )
    from .index.folder import IndexFolder
    from .index.reranking import RerankerLike
    from .index.search import SearchMode, SearchOptions
    from .kv.store import PassageKVStore
    from .live.notebook import show
    from .models.loading import DEFAULT_MODEL, load_model
    from .models.model import Model
    from .options import Options
    from .passages import Passage
    from .prompts.chat_template import TURN_MARKS, messages_as_text, with_instruction
    from .prompts.conversation import Conversation, Turn, resolve
    from .prompts.marks import format_passage, format_passages, mark_places, split_marks
    from .prompts.prompt import Prompt
    from .prompts.schemas import closed_schema, response_schema
    from .prompts.scores import as_cosine, check_score_scale
    from .prompts.template import PromptTemplate
    from .prompts.tools import (
        Tool,
        ToolCall,
        ToolCallReader,
        UnreadableCall,
        distinct_tools,
        forced_tools,
        tool_call_schema,
        tool_names,
    )
    from .request import Request


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nbce_rag' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
