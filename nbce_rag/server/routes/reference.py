"""`/docs`: the interface as a page to read."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from ..dependencies import links_of
from ..reference import HEADERS, reference_page

__all__ = ["router"]

router = APIRouter()


@router.get("/docs", include_in_schema=False)
async def read(request: Request) -> HTMLResponse:
    """The interface as a page to read."""
    return HTMLResponse(reference_page(request.app.openapi(), links_of(request).base), headers=HEADERS)
