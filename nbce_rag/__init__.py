"""nbce-rag: retrieval-augmented generation where every passage is a context of its own.

Importing this package loads neither torch nor faiss nor transformers; each name below loads what it
needs when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    "Request": "request",
    "PassageKVStore": "kv.store",
    "Comparison": "answers.comparison",
    "ChoiceScores": "answers.choices",
    "Report": "answers.report",
    "report_schema": "answers.report",
    "StreamError": "errors",
    "show": "live.notebook",
    "Prompt": "prompts.prompt",
    "PromptTemplate": "prompts.template",
    "Experts": "fusion",
    "Fused": "fusion",
    "FusionRule": "fusion",
    "FusionState": "fusion",
    "Max": "fusion",
    "Mean": "fusion",
    "MinEntropy": "fusion",
    "Posterior": "fusion",
}
__all__ = [
    "Answer",
    "ChoiceScores",
    "Citation",
    "Comparison",
    "Experts",
    "Fused",
    "FusionRule",
    "FusionState",
    "Max",
    "Mean",
    "MinEntropy",
    "NBCE",
    "NbceError",
    "NbceWarning",
    "Passage",
    "PassageEvidence",
    "PassageIndex",
    "PassageKVStore",
    "Piece",
    "Posterior",
    "Prompt",
    "PromptTemplate",
    "Report",
    "Request",
    "StreamError",
    "TokenEvidence",
    "__version__",
    "report_schema",
    "show",
]

if TYPE_CHECKING:
    from .answers.answer import Answer, Piece
    from .answers.choices import ChoiceScores
    from .answers.comparison import Comparison
    from .answers.report import Report, report_schema
    from .engine.nbce import NBCE
    from .errors import NbceError, NbceWarning, StreamError
    from .evidence.evidence import Citation, TokenEvidence
    from .evidence.passage_evidence import PassageEvidence
    from .fusion import Experts, Fused, FusionRule, FusionState, Max, Mean, MinEntropy, Posterior
    from .index import PassageIndex
    from .kv.store import PassageKVStore
    from .live.notebook import show
    from .passages import Passage
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
