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
    "Answer": "answer",
    "Citation": "answer",
    "Piece": "answer",
    "TokenEvidence": "answer",
    "PassageIndex": "index",
    "NBCE": "engine",
    "Request": "engine",
    "PassageKVStore": "decoding.kv_store",
    "Comparison": "compare",
    "ChoiceScores": "scoring",
    "show": "view",
    "PromptTemplate": "prompt",
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
    "PassageIndex",
    "PassageKVStore",
    "Piece",
    "Posterior",
    "PromptTemplate",
    "Request",
    "TokenEvidence",
    "__version__",
    "show",
]

if TYPE_CHECKING:
    from .answer import Answer, Citation, Piece, TokenEvidence
    from .compare import Comparison
    from .decoding.kv_store import PassageKVStore
    from .engine import NBCE, Request
    from .errors import NbceError, NbceWarning
    from .fusion import Experts, Fused, FusionRule, FusionState, Max, Mean, MinEntropy, Posterior
    from .index import PassageIndex
    from .passages import Passage
    from .prompt import PromptTemplate
    from .scoring import ChoiceScores
    from .view import show


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nbce_rag' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
