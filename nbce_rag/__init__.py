"""nbce-rag: retrieval-augmented generation where every passage is a context of its own.

Importing this package loads neither torch nor faiss nor transformers; each name below loads what it
needs when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .fusion.registry import RULES as _RULES

__version__ = "0.1.0"

_HOME = {
    "Passage": "passages",
    "NbceError": "errors",
    "NbceWarning": "errors",
    "Answer": "answers.answer",
    "Citation": "evidence.evidence",
    "PassageEvidence": "evidence.passage_evidence",
    "Piece": "answers.answer",
    "TokenEvidence": "evidence.evidence",
    "PassageIndex": "index",
    "NBCE": "engine.nbce",
    "Rag": "engine.rag",
    "Request": "request",
    "PassageKVStore": "kv.store",
    "Comparison": "answers.comparison",
    "ChoiceScores": "answers.choices",
    "Report": "answers.report",
    "report_schema": "answers.report",
    "StreamError": "errors",
    "DEFAULT_MODEL": "models.loading",
    "show": "live.notebook",
    "ContextLengthError": "errors",
    "EmbedderMismatchError": "errors",
    "IndexDamagedError": "errors",
    "IndexLockedError": "errors",
    "IndexNotFoundError": "errors",
    "InputError": "errors",
    "MissingDependencyError": "errors",
    "ModelError": "errors",
    "NumericalError": "errors",
    "PassageIndexError": "errors",
    "ReadError": "errors",
    "Options": "options",
    "AllOf": "index.filters.conditions",
    "AnyOf": "index.filters.conditions",
    "Ask": "index.filters.conditions",
    "Condition": "index.filters.conditions",
    "Not": "index.filters.conditions",
    "Test": "index.filters.conditions",
    "as_condition": "index.filters.conditions",
    "Embedder": "embedding.embedder",
    "CallableEmbedder": "embedding.function",
    "DEFAULT_EMBEDDER": "embedding.sentence_transformer",
    "SentenceTransformerEmbedder": "embedding.sentence_transformer",
    "Conversation": "prompts.conversation",
    "Turn": "prompts.conversation",
    "resolve": "prompts.conversation",
    "format_passage": "prompts.marks",
    "format_passages": "prompts.marks",
    "split_marks": "prompts.marks",
    "evaluate": "evaluation.runner",
    "Prompt": "prompts.prompt",
    "PromptTemplate": "prompts.template",
    "Fused": "fusion",
    "FusionRule": "fusion",
    "FusionState": "fusion",
    **dict.fromkeys(_RULES.classes, "fusion"),
}
__all__ = [
    "AllOf",
    "Answer",
    "AnyOf",
    "as_condition",
    "Ask",
    "CallableEmbedder",
    "ChoiceScores",
    "Citation",
    "Comparison",
    "Condition",
    "ContextLengthError",
    "Conversation",
    "DEFAULT_EMBEDDER",
    "DEFAULT_MODEL",
    "Embedder",
    "EmbedderMismatchError",
    "evaluate",
    "Experts",
    "format_passage",
    "format_passages",
    "Fused",
    "FusionRule",
    "FusionState",
    "IndexDamagedError",
    "IndexLockedError",
    "IndexNotFoundError",
    "InputError",
    "Max",
    "Mean",
    "MinEntropy",
    "MissingDependencyError",
    "ModelError",
    "NBCE",
    "NbceError",
    "NbceWarning",
    "Not",
    "NumericalError",
    "Options",
    "Passage",
    "PassageEvidence",
    "PassageIndex",
    "PassageIndexError",
    "PassageKVStore",
    "Piece",
    "Posterior",
    "Prompt",
    "PromptTemplate",
    "Rag",
    "ReadError",
    "Report",
    "report_schema",
    "Request",
    "resolve",
    "SentenceTransformerEmbedder",
    "show",
    "split_marks",
    "StreamError",
    "Test",
    "TokenEvidence",
    "Turn",
    "__version__",
]
__all__ += [
    name for name in _HOME if name not in __all__
]  # rules beyond these are of any type to type checkers

if TYPE_CHECKING:
    from .answers.answer import Answer, Piece
    from .answers.choices import ChoiceScores
    from .answers.comparison import Comparison
    from .answers.report import Report, report_schema
    from .embedding.embedder import Embedder
    from .embedding.function import CallableEmbedder
    from .embedding.sentence_transformer import DEFAULT_EMBEDDER, SentenceTransformerEmbedder
    from .engine.nbce import NBCE
    from .engine.rag import Rag
    from .errors import (
        ContextLengthError,
        EmbedderMismatchError,
        IndexDamagedError,
        IndexLockedError,
        IndexNotFoundError,
        InputError,
        MissingDependencyError,
        ModelError,
        NbceError,
        NbceWarning,
        NumericalError,
        PassageIndexError,
        ReadError,
        StreamError,
    )
    from .evaluation.runner import evaluate
    from .evidence.evidence import Citation, TokenEvidence
    from .evidence.passage_evidence import PassageEvidence
    from .fusion import Experts, Fused, FusionRule, FusionState, Max, Mean, MinEntropy, Posterior
    from .index import PassageIndex
    from .index.filters.conditions import AllOf, AnyOf, Ask, Condition, Not, Test, as_condition
    from .kv.store import PassageKVStore
    from .live.notebook import show
    from .models.loading import DEFAULT_MODEL
    from .options import Options
    from .passages import Passage
    from .prompts.conversation import Conversation, Turn, resolve
    from .prompts.marks import format_passage, format_passages, split_marks
    from .prompts.prompt import Prompt
    from .prompts.template import PromptTemplate
    from .request import Request


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nbce_rag' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
