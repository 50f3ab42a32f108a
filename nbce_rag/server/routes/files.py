"""`/v1/files` and the files of `/v1/vector_stores`: documents that come in over HTTP.

Uploading, and all that changes an index, is off unless the server was started with `--allow-write`, and needs
a key that may write. An index is a vector store; the name of the one is the id of the other.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from starlette.responses import FileResponse, Response

from ...index import PassageIndex
from ..access import Caller, check_write
from ..dependencies import ServedOf
from ..job import Batch, Job
from ..operation import Operation
from ..stored_file import StoredFile
from ..wire.errors import ServerError, not_found
from ..wire.files import (
    BatchBody,
    StoreFileBody,
    batch_reply,
    check_attributes,
    deleted_reply,
    file_reply,
    list_reply,
    store_file_reply,
    store_reply,
    stored_reply,
)

__all__ = ["router"]

router = APIRouter(tags=["files"])


def _operation(request: Request) -> Operation:
    operation: Operation = request.app.state.policy
    return operation


def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


def _writer(request: Request) -> Caller:
    """Who asks.

    Raises:
        ServerError: it may not write, or nobody may (403).
    """
    check_write(_caller(request), _operation(request).settings.allow_write)
    return _caller(request)


def _index(vector_store_id: str, served: ServedOf, request: Request) -> PassageIndex:
    index = served.indexes.get(vector_store_id)
    if index is None or not _operation(request).may_read(_caller(request), vector_store_id):
        raise not_found(
            f"There is no vector store {vector_store_id[:100]!r}.",
            param="vector_store_id",
            code="vector_store_not_found",
        )
    return index


OperationOf = Annotated[Operation, Depends(_operation)]
CallerOf = Annotated[Caller, Depends(_caller)]
Writer = Annotated[Caller, Depends(_writer)]
Index = Annotated[PassageIndex, Depends(_index)]


@router.post("/v1/files")
async def upload_file(
    caller: Writer,
    operation: OperationOf,
    file: Annotated[UploadFile, File()],
    served: ServedOf,
    request: Request,
    purpose: Annotated[str, Form()] = "assistants",
    index: Annotated[str | None, Form(description="An index that takes it in at once.")] = None,
) -> dict[str, Any]:
    """Upload a file; an index takes it in at once, or with `POST /v1/vector_stores/{id}/files`."""
    home = None if index is None else _index(index, served, request)
    name = file.filename or "file.txt"
    stored = await asyncio.to_thread(operation.uploads.add, caller, name, file.file, purpose)
    if index is not None and home is not None:
        try:
            operation.jobs.begin(index, home, [(stored, operation.uploads.path(stored))], {})
        except ServerError:  # whoever asks again sends the file again
            await asyncio.to_thread(operation.uploads.delete, stored)
            raise
    return file_reply(stored)


@router.get("/v1/files")
async def list_files(caller: CallerOf, operation: OperationOf) -> dict[str, Any]:
    """The files of this key, newest first."""
    return list_reply([file_reply(file) for file in await asyncio.to_thread(operation.uploads.files, caller)])


@router.get("/v1/files/{file_id}")
async def get_file(file_id: str, caller: CallerOf, operation: OperationOf) -> dict[str, Any]:
    """One file."""
    return file_reply(operation.uploads.get(caller, file_id))


@router.get("/v1/files/{file_id}/content")
async def get_content(file_id: str, caller: CallerOf, operation: OperationOf) -> Response:
    """What was uploaded, as a download: no browser shows it as a page of this server."""
    file = operation.uploads.get(caller, file_id)
    headers = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
    path = operation.uploads.path(file)
    return FileResponse(path, media_type="application/octet-stream", filename=file.name, headers=headers)


@router.delete("/v1/files/{file_id}")
async def delete_file(file_id: str, caller: CallerOf, operation: OperationOf) -> dict[str, Any]:
    """Forget a file. Indexes keep what they took in of it."""
    file = operation.uploads.get(caller, file_id)
    check_write(caller, operation.settings.allow_write)
    await asyncio.to_thread(operation.uploads.delete, file)
    return deleted_reply(file_id, "file")


@router.get("/v1/vector_stores")
async def list_stores(served: ServedOf, caller: CallerOf, operation: OperationOf) -> dict[str, Any]:
    """The indexes as OpenAI's clients list vector stores."""
    names = [name for name in served.indexes if operation.may_read(caller, name)]
    return list_reply([await asyncio.to_thread(store_reply, name, served.indexes[name]) for name in names])


@router.get("/v1/vector_stores/{vector_store_id}")
async def get_store(vector_store_id: str, index: Index) -> dict[str, Any]:
    """An index as OpenAI's clients see a vector store."""
    return await asyncio.to_thread(store_reply, vector_store_id, index)


@router.post("/v1/vector_stores/{vector_store_id}/files")
async def add_to_store(
    vector_store_id: str, body: StoreFileBody, index: Index, caller: CallerOf, operation: OperationOf
) -> dict[str, Any]:
    """Begin to take a file into an index; ask for it again to see how far it is."""
    [job] = _begin(operation, caller, vector_store_id, index, [body.file_id], body.attributes)
    return store_file_reply(job)


@router.get("/v1/vector_stores/{vector_store_id}/files")
async def list_store_files(
    vector_store_id: str, index: Index, caller: CallerOf, operation: OperationOf
) -> dict[str, Any]:
    """The files of this key that are in an index, or on their way."""
    files = await asyncio.to_thread(operation.uploads.files, caller)
    entries = [await asyncio.to_thread(_entry, operation, vector_store_id, index, file) for file in files]
    return list_reply([entry for entry in entries if entry is not None])


@router.get("/v1/vector_stores/{vector_store_id}/files/{file_id}")
async def get_store_file(
    vector_store_id: str, file_id: str, index: Index, caller: CallerOf, operation: OperationOf
) -> dict[str, Any]:
    """A file on its way into an index, or there: `status`, and in `nbce` how many of its passages are."""
    file = operation.uploads.get(caller, file_id)
    entry = await asyncio.to_thread(_entry, operation, vector_store_id, index, file)
    if entry is None:
        raise _not_in_store(vector_store_id, file_id)
    return entry


@router.delete("/v1/vector_stores/{vector_store_id}/files/{file_id}")
async def delete_store_file(
    vector_store_id: str, file_id: str, index: Index, caller: CallerOf, operation: OperationOf
) -> dict[str, Any]:
    """Remove a file's passages from an index; one that is on its way is cancelled."""
    file = operation.uploads.get(caller, file_id)
    check_write(caller, operation.settings.allow_write)
    job = operation.jobs.get(vector_store_id, file_id)
    if job is not None and job.status == "in_progress":
        operation.jobs.cancel(job)
    else:
        removed = await asyncio.to_thread(index.delete, source=operation.uploads.path(file))
        operation.jobs.forget(vector_store_id, file_id)
        if job is None and not removed:
            raise _not_in_store(vector_store_id, file_id)
    return deleted_reply(file_id, "vector_store.file")


@router.post("/v1/vector_stores/{vector_store_id}/file_batches")
async def add_batch(
    vector_store_id: str, body: BatchBody, index: Index, caller: CallerOf, operation: OperationOf
) -> dict[str, Any]:
    """Begin to take several files into an index."""
    jobs = _begin(operation, caller, vector_store_id, index, body.file_ids, body.attributes)
    return batch_reply(operation.jobs.batch(vector_store_id, caller.name, jobs))


@router.get("/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}")
async def get_batch(
    vector_store_id: str, batch_id: str, index: Index, caller: CallerOf, operation: OperationOf
) -> dict[str, Any]:
    """How far several files are."""
    return batch_reply(_batch(operation, caller, vector_store_id, batch_id))


@router.post("/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/cancel")
async def cancel_batch(
    vector_store_id: str, batch_id: str, index: Index, caller: CallerOf, operation: OperationOf
) -> dict[str, Any]:
    """Cancel what is not in the index yet."""
    batch = _batch(operation, caller, vector_store_id, batch_id)
    check_write(caller, operation.settings.allow_write)
    for job in batch.jobs:
        operation.jobs.cancel(job)
    return batch_reply(batch)


@router.get("/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/files")
async def list_batch_files(
    vector_store_id: str, batch_id: str, index: Index, caller: CallerOf, operation: OperationOf
) -> dict[str, Any]:
    """The files of a batch."""
    return list_reply(
        [store_file_reply(job) for job in _batch(operation, caller, vector_store_id, batch_id).jobs]
    )


def _begin(
    operation: Operation,
    caller: Caller,
    store: str,
    index: PassageIndex,
    file_ids: list[str],
    attributes: dict[str, Any] | None,
) -> list[Job]:
    uploads = operation.uploads
    files = [uploads.get(caller, file_id) for file_id in dict.fromkeys(file_ids)]
    check_write(caller, operation.settings.allow_write)
    pairs = [(file, uploads.path(file)) for file in files]
    return operation.jobs.begin(store, index, pairs, check_attributes(attributes))


def _entry(operation: Operation, store: str, index: PassageIndex, file: StoredFile) -> dict[str, Any] | None:
    """What is said of a file in an index; None of one that is not there."""
    if (job := operation.jobs.get(store, file.id)) is not None:
        return store_file_reply(job)
    passages = sum(1 for _ in index.find({"file_id": file.id}))
    return stored_reply(store, file, passages) if passages else None


def _batch(operation: Operation, caller: Caller, store: str, batch_id: str) -> Batch:
    batch = operation.jobs.get_batch(batch_id)
    if batch is None or batch.index != store or not (caller.admin or caller.name == batch.owner):
        raise not_found(f"There is no batch {batch_id[:100]!r}.", param="batch_id", code="batch_not_found")
    return batch


def _not_in_store(store: str, file_id: str) -> Exception:
    message = f"The file {file_id[:100]!r} is not in {store!r}."
    return not_found(message, param="file_id", code="file_not_found")
