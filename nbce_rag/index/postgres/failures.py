"""psycopg's errors as ours, in one table. None of them repeats a password."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import (
    IndexDamagedError,
    IndexLockedError,
    IndexNotFoundError,
    InputError,
    PassageIndexError,
)
from ..rows import StaleReadError
from .address import Address
from .driver import psycopg

__all__ = ["LostConnectionError", "failures", "not_found", "unreachable"]

_LOCKED = ("55P03", "40P01", "40001")  # lock_timeout, deadlock, serialization
_NO_TABLE = ("42P01", "3F000", "42703")
_FULL = ("53100", "53200", "54000", "25006")


class LostConnectionError(StaleReadError):
    """The connection to the database ended while something was read; a new one is made for the next read."""


@contextmanager
def failures(address: Address, timeout: float, *, changing: bool) -> Iterator[None]:
    """Turns the errors of psycopg inside into ours.

    Args:
        address: Of the index.
        timeout: Seconds that were waited for another writer.
        changing: Whether something was being stored.
    """
    try:
        yield
    except psycopg.Error as error:
        raise _ours(error, address, timeout, changing) from error
    except UnicodeEncodeError as error:
        raise InputError("A text holds half a surrogate pair: decode it with errors='replace'.") from error


def _ours(
    error: psycopg.Error, address: Address, timeout: float, changing: bool
) -> PassageIndexError | InputError:
    code, where, reason = error.sqlstate or "", address.shown, _first_line(error)
    if code == "57014":
        return PassageIndexError(
            f"The database at {where} stopped a statement that took more than "
            f"{address.statement_timeout:g} s: narrow the question, or allow more with "
            "?statement_timeout=SECONDS in the URL."
        )
    if code in _LOCKED:
        return IndexLockedError(
            f"Another process is writing to the index at {where} and did not finish within {timeout:g} s: "
            "wait for it or stop it, then try again."
        )
    if code == "42501":
        return PassageIndexError(
            f"The role that opened {where} lacks a right ({reason}): GRANT it, or open the index as its "
            "owner."
        )
    if code in _NO_TABLE:
        return IndexNotFoundError(
            f"The index at {where} is gone, or has other tables than an index has ({reason}): open it again."
        )
    if code in _FULL or code.startswith("53"):
        return PassageIndexError(f"The database at {where} cannot do that ({reason}). Nothing was stored.")
    if code.startswith("XX"):
        return IndexDamagedError(f"The database at {where} is damaged ({reason}): restore it from a backup.")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        if changing:
            return PassageIndexError(
                f"The connection to {where} was lost while something was stored ({reason}): whether it was "
                "is not known. Do the same again: what is stored already is left as it is."
            )
        return LostConnectionError(f"The connection to {where} was lost ({reason}): try again.")
    if isinstance(error, psycopg.DataError | psycopg.ProgrammingError):
        return InputError(f"The database was asked with a value that it does not take ({reason}).")
    return PassageIndexError(f"The database at {where} refused that ({reason}).")


def unreachable(address: Address, error: psycopg.Error) -> PassageIndexError:
    """The error for a database to which there is no connection."""
    reason = _first_line(error)
    if error.sqlstate == "3D000" or ("does not exist" in reason and "database" in reason):
        return IndexNotFoundError(
            f"There is no such database ({reason}): make it with CREATE DATABASE, or correct the name in "
            f"{address.shown}."
        )
    return PassageIndexError(
        f"There is no connection to {address.shown} ({reason}): is the server up, and are host, port, user, "
        "password and sslmode right?"
    )


def not_found(address: Address) -> IndexNotFoundError:
    """The error for a database without this index."""
    return IndexNotFoundError(
        f"There is no passage index at {address.shown} (no schema {address.schema!r} with one): make one "
        "with `nbce-rag index DOCS --index URL` or PassageIndex.create(URL)."
    )


def _first_line(error: psycopg.Error) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
