"""The URL of an index in PostgreSQL, and how it is shown: without a password."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlencode

from ...errors import InputError
from .driver import psycopg

__all__ = ["Address"]

_SCHEMA = "nbce_rag"
_CONNECTIONS = 8
_STATEMENT_S = 60
_OURS = ("index", "connections", "statement_timeout")
_LONGEST = 63  # bytes of a name in PostgreSQL


@dataclass(frozen=True)
class Address:
    """Where an index is.

    Attributes:
        conninfo: What psycopg connects by. It may hold a password, and is in no message.
        schema: The schema of the database that holds the index: `?index=NAME`, by default nbce_rag.
        shown: The URL without a password, for messages.
        connections: The most that are open at once: `?connections=N`, by default 8.
        statement_timeout: Seconds that one statement may take: `?statement_timeout=N`, by default 60; 0 for
            no limit. What makes an index anew has none.
    """

    conninfo: str = field(repr=False)
    schema: str
    shown: str
    connections: int
    statement_timeout: float

    @classmethod
    def of(cls, url: str) -> Address:
        """The address in a URL; all that is not ours (`_OURS`) is libpq's, such as `sslmode=verify-full`.

        Raises:
            InputError: It is no URL of a database. The message does not repeat it.
        """
        try:
            base, _, query = url.partition("?")
            pairs = [pair.partition("=") for pair in query.split("&") if pair]
            own = {name: unquote(value, errors="strict") for name, _, value in pairs if name in _OURS}
            # As it was written: to libpq + is no space.
            rest = "&".join("".join(pair) for pair in pairs if pair[0] not in _OURS)
            conninfo = f"{base}?{rest}" if rest else base
            known = psycopg.conninfo.conninfo_to_dict(conninfo)
        except (ValueError, psycopg.Error):
            # Their messages repeat the URL, and a password in it.
            raise InputError(
                "The URL of the database cannot be read: write it like postgresql://user:password@host:5432/"
                "database?sslmode=verify-full, with characters such as @ : / % in a password as %40 %3A %2F "
                "%25."
            ) from None
        schema = own.get("index", _SCHEMA)
        if not schema or len(schema.encode()) > _LONGEST or "\0" in schema or schema.startswith("pg_"):
            raise InputError(f"?index={schema!r} can be no name of a schema: take up to 63 letters.")
        return cls(
            conninfo,
            schema,
            _shown({name: str(value) for name, value in known.items()}, own),
            int(_number("connections", own.get("connections", str(_CONNECTIONS)), 1)),
            _number("statement_timeout", own.get("statement_timeout", str(_STATEMENT_S)), 0),
        )


def _number(name: str, text: str, least: int) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not least <= number <= 1_000_000:
        raise InputError(f"?{name}={text} must be a number from {least} up.")
    return number


def _shown(known: dict[str, str], own: dict[str, str]) -> str:
    """A URL of what is no secret: user, host, port, database and index."""
    host = known.get("host") or known.get("hostaddr") or ""
    user = f"{quote(known['user'])}@" if "user" in known else ""
    query = {"index": own["index"]} if "index" in own else {}
    if host.startswith("/"):  # a socket
        query, host = {"host": host, **query}, ""
    hosts, ports = host.split(","), known.get("port", "").split(",")
    if len(ports) != len(hosts):
        ports = ports[:1] * len(hosts)
    hosts = [f"[{name}]" if ":" in name else name for name in hosts]
    places = ",".join(f"{name}:{port}" if port else name for name, port in zip(hosts, ports, strict=True))
    text = f"postgresql://{user}{places}/{quote(known.get('dbname', ''))}"
    return f"{text}?{urlencode(query, quote_via=quote, safe='/')}" if query else text
