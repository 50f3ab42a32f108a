"""Files and vector stores in OpenAI's form."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ...index import PassageIndex
from ...values import NotPlainError, plain
from ..job import Batch, Job
from ..stored_file import StoredFile
from .errors import bad_field

__all__ = [
    "BatchBody",
    "StoreFileBody",
    "batch_reply",
    "check_attributes",
    "deleted_reply",
    "file_reply",
    "list_reply",
    "store_file_reply",
    "store_reply",
    "stored_reply",
]

_MOST_ATTRIBUTES, _LONGEST_KEY, _LONGEST_VALUE = 16, 64, 512  # OpenAI's
_RESERVED = ("file_id", "filename")


class StoreFileBody(BaseModel):
    """A file that an index is to take in."""

    model_config = ConfigDict(extra="ignore")

    file_id: str = Field(description="As `POST /v1/files` gave it.")
    attributes: dict[str, Any] | None = Field(None, description="Metadata of all its passages.")


class BatchBody(BaseModel):
    """Several files that an index is to take in."""

    model_config = ConfigDict(extra="ignore")

    file_ids: list[str] = Field(min_length=1, max_length=500)
    attributes: dict[str, Any] | None = None


def check_attributes(attributes: dict[str, Any] | None) -> dict[str, Any]:
    """Metadata for passages.

    Raises:
        ServerError: too many, too long, or of a kind that cannot be filtered by (400).
    """
    attributes = attributes or {}
    if len(attributes) > _MOST_ATTRIBUTES:
        raise bad_field("attributes", f"There are more than {_MOST_ATTRIBUTES} attributes.")
    for name, value in attributes.items():
        if name in _RESERVED or not 0 < len(name) <= _LONGEST_KEY:
            raise bad_field("attributes", f"{name[:_LONGEST_KEY]!r} cannot be the name of an attribute.")
        if not isinstance(value, str | int | float | bool) or len(str(value)) > _LONGEST_VALUE:
            raise bad_field(
                "attributes",
                f"{name!r} must be a text of up to {_LONGEST_VALUE} characters, a number or a truth.",
            )
    try:
        # Here, where whoever asks is told, and not in the middle of taking a file in.
        copy: dict[str, Any] = plain(attributes)
    except NotPlainError as error:
        raise bad_field("attributes", f"attributes cannot be kept: {error}.") from error
    return copy


def file_reply(file: StoredFile) -> dict[str, Any]:
    """A file."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
    }


def store_file_reply(job: Job) -> dict[str, Any]:
    """A file on its way into an index, or there; `nbce` has how far it is."""
    error = None if job.error is None else {"code": "invalid_file", "message": job.error}
    return {
        "id": job.file.id,
        "object": "vector_store.file",
        "created_at": job.created_at,
        "vector_store_id": job.index,
        "status": job.status,
        "last_error": error,
        "usage_bytes": job.file.bytes if job.status == "completed" else 0,
        "attributes": dict(job.attributes),
        "nbce": {"filename": job.file.name, "passages": job.passages, "total": job.total},
    }


def stored_reply(index: str, file: StoredFile, passages: int) -> dict[str, Any]:
    """A file that is in an index since before the server was started."""
    job = Job(index, file, {}, "completed", passages=passages, total=passages, created_at=file.created_at)
    return store_file_reply(job)


def store_reply(name: str, index: PassageIndex) -> dict[str, Any]:
    """An index, as a vector store."""
    sources = len(index.sources())
    return {
        "id": name,
        "object": "vector_store",
        "created_at": 0,
        "name": name,
        "status": "completed",
        "usage_bytes": 0,
        "file_counts": {
            "in_progress": 0,
            "completed": sources,
            "failed": 0,
            "cancelled": 0,
            "total": sources,
        },
        "metadata": {"passages": str(len(index)), "embedder": index.embedder_name},
    }


def batch_reply(batch: Batch) -> dict[str, Any]:
    """Files that were begun together."""
    statuses = [job.status for job in batch.jobs]
    counts = {
        status: statuses.count(status) for status in ("in_progress", "completed", "failed", "cancelled")
    }
    status = "in_progress" if counts["in_progress"] else "cancelled" if counts["cancelled"] else "completed"
    return {
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": batch.created_at,
        "vector_store_id": batch.index,
        "status": status,
        "file_counts": {**counts, "total": len(statuses)},
    }


def deleted_reply(item_id: str, kind: str) -> dict[str, Any]:
    """Something that is gone."""
    return {"id": item_id, "object": f"{kind}.deleted", "deleted": True}


def list_reply(items: list[dict[str, Any]]) -> dict[str, Any]:
    """All of something; there are no further pages."""
    ends = (
        {"first_id": items[0]["id"], "last_id": items[-1]["id"]}
        if items
        else {"first_id": None, "last_id": None}
    )
    return {"object": "list", "data": items, **ends, "has_more": False}
