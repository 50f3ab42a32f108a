"""Addresses that open without a key, for a while: a browser that follows a link to a source has none."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from urllib.parse import parse_qs

__all__ = ["Signer"]


class Signer:
    """Signs paths, with an end of their validity.

    Args:
        secret: what signs; None is one of this process alone, whose addresses end with it.
        seconds: for which an address opens.
        clock: seconds since 1970, for tests.
    """

    def __init__(
        self, secret: str | None = None, seconds: float = 86400.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._secret = secrets.token_bytes(32) if secret is None else secret.encode()
        self._seconds = seconds
        self._clock = clock

    def sign(self, path: str) -> str:
        """The path with what opens it behind it: `?exp=...&sig=...`.

        Args:
            path: as it stands in the address, percent-encoded.
        """
        end = int(self._clock() + self._seconds)
        return f"{path}?exp={end}&sig={self._signature(path, end)}"

    def opens(self, path: str, query: str) -> bool:
        """Whether a path may be opened without a key.

        Args:
            path: as it stood in the address.
            query: what stood behind it, without the question mark.
        """
        fields = parse_qs(query)
        try:
            end, signature = int(fields["exp"][0]), fields["sig"][0]
        except (KeyError, ValueError):
            return False
        matches = hmac.compare_digest(signature.encode(), self._signature(path, end).encode())
        return matches and self._clock() < end

    def _signature(self, path: str, end: int) -> str:
        digest = hmac.new(self._secret, f"{end}\n{path}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest[:18]).decode()
