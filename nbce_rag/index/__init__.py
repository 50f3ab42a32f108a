"""The passage index: SQLite for everything that must not be lost, FAISS for the vectors."""

from .ingestion import AddReport
from .passage_index import PassageIndex

__all__ = ["AddReport", "PassageIndex"]
