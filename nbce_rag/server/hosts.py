"""Which names a server answers to, and which pages may ask it: against pages that rebind a name to it.

A page somewhere can have its own name point to this machine, and a browser then sends what it asks here as if
it were of that page's own server. An address in numbers cannot be rebound.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from .settings import ServerSettings
from .wire.errors import ServerError

__all__ = ["HostCheck"]


class HostCheck:
    """Says whether a request was meant for this server.

    Args:
        settings: `host`, `public_url`, `allowed_hosts`, `cors_origins` and whether there are keys count.
    """

    def __init__(self, settings: ServerSettings) -> None:
        own = [settings.host, "localhost"]
        if settings.public_url:
            own.append(urlsplit(settings.public_url).hostname or "")
        self._names = _lower([*settings.allowed_hosts, *own])
        self._is_open = "*" in settings.allowed_hosts or (settings.has_keys and not settings.allowed_hosts)
        self._has_keys = settings.has_keys
        self._origins = _lower(settings.cors_origins)

    def check_host(self, header: str | None) -> None:
        """Raises ServerError (421) where the name that was asked for is none of this server's.

        Args:
            header: `Host`.
        """
        if self._is_open:
            return
        name = _host_name(header or "")
        if name in self._names or _is_address(name):
            return
        shown = name[:100]
        raise ServerError(
            421,
            f"This server does not answer to the name {shown!r}; if it should, start it with --allowed-host "
            f"{shown}.",
            code="unknown_host",
        )

    def check_origin(self, origin: str | None, host: str | None) -> None:
        """Raises ServerError (403) where a page of another server asks, and no keys protect this one.

        With keys, the page would have to have one.

        Args:
            origin: `Origin`; None where no browser asks, or a page of this server reads.
            host: `Host`.
        """
        if origin is None or self._has_keys or origin.lower() in self._origins:
            return
        if host and _place(origin) == host.lower():
            return
        shown = origin[:100]
        raise ServerError(
            403,
            f"Pages of {shown!r} may not ask this server; if they should, start it with"
            f" --cors-origin {shown}.",
            code="origin_not_allowed",
        )


def _lower(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name.lower() for name in names if name)


def _host_name(header: str) -> str:
    """The name without its port, and IPv6 without its brackets."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return header.lower()


def _place(origin: str) -> str:
    """Name and port of an origin; "" where it has none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
