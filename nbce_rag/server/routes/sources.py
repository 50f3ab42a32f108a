"""Passages in their sources: what stands around them, pages of PDFs, and the sources themselves."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from ...errors import ReadError
from ...index import PassageIndex
from ...passages import Passage
from ..ask import Home, Retrieved
from ..dependencies import Caller, PolicyOf, ServedOf, links_of, reply_info
from ..retrieval import rags_of
from ..sources import around, is_pdf, picture, source_bytes, source_file, source_text, views
from ..wire.errors import bad_field, not_found
from ..wire.reply import passage_item

__all__ = ["router"]

router = APIRouter(tags=["sources"])

_HEADERS = {
    "Cache-Control": "private, max-age=300",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_MOST_SPANS = 100

Span = Annotated[
    list[str],
    Query(description="Words to mark, as START-END in the source's text, the end exclusive. Repeat it."),
]


def _find(index: str, passage_id: str, served: Any, caller: Any, policy: Any) -> tuple[PassageIndex, Passage]:
    """An index that the caller may read, and a passage of it.

    Raises:
        ServerError: either is not there (404).
    """
    home: PassageIndex = rags_of(served, [index], caller, policy)[index].index
    passage = home.get(passage_id)
    if passage is None:
        raise not_found(f"The index {index!r} has no passage {passage_id!r}.", param="passage_id")
    return home, passage


@router.get("/v1/indexes/{index}/passages/{passage_id:path}")
def get_passage(
    index: str, passage_id: str, request: Request, served: ServedOf, caller: Caller, policy: PolicyOf
) -> dict[str, Any]:
    """A passage with what stands around it in its source.

    Beside its own fields: `before` and `after`, from its neighbours in the index; and `kind`: "pdf" where
    `/v1/indexes/{index}/pages/{passage_id}` shows it on its page, "web" where its source is an address,
    "text" otherwise.
    """
    home, passage = _find(index, passage_id, served, caller, policy)
    retrieved = Retrieved("", (passage,), {passage.content_hash: Home(index, passage.id)})
    item = passage_item(passage, retrieved, reply_info(request, "nbce", "passage"))
    is_web = (passage.source or "").startswith(("http://", "https://"))
    kind = "pdf" if is_pdf(source_file(home, passage)) else "web" if is_web else "text"
    before, after = around(home, passage)
    return {"object": "passage", **item, "kind": kind, "before": before, "after": after}


@router.get("/v1/indexes/{index}/pages/{passage_id:path}")
def get_pages(
    index: str,
    passage_id: str,
    request: Request,
    served: ServedOf,
    caller: Caller,
    policy: PolicyOf,
    span: Span = [],  # noqa: B006  FastAPI copies it
) -> dict[str, Any]:
    """The pages of a PDF on which a passage stands, with boxes over the passage and over the words to mark.

    Boxes are [left, top, width, height] in shares of the page. Where the file says something else by now,
    `is_current` is false and there are no pages: what is not sure is not marked. It is null where the index
    does not say where in the file the passage stands.
    """
    home, passage = _find(index, passage_id, served, caller, policy)
    path = source_file(home, passage)
    if path is None or not is_pdf(path):
        raise not_found(f"The source of the passage {passage_id!r} is no PDF that is still there.")
    marks = [_span(one) for one in span[:_MOST_SPANS]]
    try:
        pages = views(path, passage, marks)
    except (ReadError, OSError):
        pages = ()
    address = _address(request, index, passage_id)
    drawn = [
        {**page._asdict(), "url": f"{address}{'&' if '?' in address else '?'}page={page.number}"}
        for page in pages
    ]
    is_current = bool(pages) if passage.start is not None and passage.end is not None else None
    return {"object": "pages", "is_current": is_current, "pages": drawn}


@router.get(
    "/source/{index}/{passage_id:path}",
    response_class=Response,
    responses={
        200: {
            "description": "The source, or a page of it.",
            "content": {"text/plain": {}, "application/pdf": {}, "image/png": {}},
        }
    },
)
def get_source(
    index: str,
    passage_id: str,
    served: ServedOf,
    caller: Caller,
    policy: PolicyOf,
    page: Annotated[int | None, Query(ge=1, description="A page of a PDF, as a PNG picture.")] = None,
) -> Response:
    """The source of a passage, for a browser: a PDF as it is, everything else as plain text."""
    home, passage = _find(index, passage_id, served, caller, policy)
    path = source_file(home, passage)
    if path is None or not is_pdf(path):
        if page is not None:
            raise not_found(f"The source of the passage {passage_id!r} is no PDF that is still there.")
        return Response(source_text(home, passage), media_type="text/plain; charset=utf-8", headers=_HEADERS)
    try:
        if page is not None:
            return Response(picture(path, page), media_type="image/png", headers=_HEADERS)
        # A browser's own reader of PDFs draws it: a policy would keep that from its own styles.
        headers = {name: value for name, value in _HEADERS.items() if name != "Content-Security-Policy"}
        return Response(source_bytes(path), media_type="application/pdf", headers=headers)
    except (ReadError, OSError) as error:
        raise not_found(f"The source of the passage {passage_id!r} cannot be shown.") from error


def _address(request: Request, index: str, passage_id: str) -> str:
    """The address of a source, as seen from the page."""
    links = links_of(request)
    return links.source(Passage("", id=passage_id), Home(index, passage_id)).removeprefix(f"{links.base}/")


def _span(text: str) -> tuple[int, int]:
    start, _, end = text.partition("-")
    if not (start.isdecimal() and end.isdecimal() and len(text) < 30 and int(start) < int(end)):
        raise bad_field("span", f"span={text!r} is no span; write it like 120-164.")
    return int(start), int(end)
