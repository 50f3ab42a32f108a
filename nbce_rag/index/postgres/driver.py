"""psycopg and pgvector, or an error that names the extra."""

from __future__ import annotations

from ...errors import MissingDependencyError

try:
    import pgvector.psycopg
    import psycopg
    import psycopg.conninfo
    import psycopg.sql
    import psycopg.types
except ImportError as error:
    raise MissingDependencyError(
        "An index in PostgreSQL needs the packages psycopg and pgvector: pip install 'nbce-rag[postgres]'"
    ) from error

__all__ = ["pgvector", "psycopg"]
