"""What a server may be told."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..checks import Range
from ..errors import InputError
from ..files import expand_home
from ..index.address import is_database
from ..values import shown
from .access import Caller, Key
from .key_file import KeyFile, digest_of
from .limits import Limits

__all__ = ["ServerSettings", "is_loopback", "named_index"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ORIGIN = re.compile(r"https?://[^/\s*?#]+")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Settings of `nbce-rag serve`.

    Attributes:
        indexes: folders of indexes, or URLs of databases, by the names under which they are served.
        model: as in `NBCE.from_pretrained`; None is the packaged default.
        opening: what else `NBCE.from_pretrained` takes: `device`, `dtype`, `kv_store`, ...
        options: defaults of every answer (`nbce_rag.options.Options`).
        search: defaults of every search (`PassageIndex.search`).
        reranker: the cross-encoder of searches with `rerank`, by name or folder; None: there is none.
        public_url: under which browsers reach the server, for links to sources; None takes each request's.
        ping_seconds: a stream that says nothing for so long sends a comment, so that no proxy cuts it.
        host: address to listen at. Without keys only this machine's own.
        port: 0 takes a free one.
        keys: the keys file (`nbce_rag.server.key_file`), or None.
        api_key: one more key, for everything; not to be given as a flag, which other people of the machine
            can see. Not empty.
        link_secret: signs links to sources, 16 characters or more; None makes one, so that links end with the
            process. Servers that stand for each other share one.
        no_auth: listen at other addresses without keys, where something before the server asks for them.
        allowed_hosts: names by which browsers may reach the server, beside addresses in numbers, `localhost`,
            and the names in `host` and `public_url`. "*" allows all. With keys all are allowed, unless some
            stand here.
        cors_origins: pages of these origins ("https://example.org") may ask; none. "*" needs keys.
        proxies: addresses whose X-Forwarded-For and -Proto are believed.
        root_path: what a proxy takes off the beginning of paths: "/nbce".
        allow_write: take files over HTTP.
        files: folder for them; None is `files` in the user's cache folder.
        metrics: answer at /metrics.
        log_content: write questions and answers into the log.
        shutdown_timeout: seconds that running answers have to end when the server is told to.
        limits: what one request, and all that wait, may take.

    Raises:
        InputError: a value that cannot be used, or no keys where others may come.
    """

    indexes: Mapping[str, Path | str] = field(default_factory=dict)
    model: str | None = None
    opening: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    reranker: str | None = None
    public_url: str | None = None
    ping_seconds: float = 15.0
    host: str = "127.0.0.1"
    port: int = 8000
    keys: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    link_secret: str | None = field(default=None, repr=False)
    no_auth: bool = False
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    root_path: str = ""
    allow_write: bool = False
    files: Path | None = None
    metrics: bool = True
    log_content: bool = False
    shutdown_timeout: float = 30.0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name in self.indexes:
            if not _NAME.fullmatch(name):
                raise InputError(
                    f"An index cannot be served as {shown(name)}: use up to 64 letters, digits, '.', '_' and "
                    "'-', as in harbour=PATH."
                )
        Range(0, 65535, whole=True).check("port", self.port)
        Range(0, above=True).check("ping_seconds", self.ping_seconds)
        Range(0).check("shutdown_timeout", self.shutdown_timeout)
        for name, least in (("api_key", 1), ("link_secret", 16)):
            secret = getattr(self, name)
            if secret is not None and len(secret.strip()) < least:
                # An empty key would count as one and be none; what anybody can guess signs nothing.
                raise InputError(
                    f"{name} must have {least} characters or more that are not blank; leave it out for none."
                )
        for origin in self.cors_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise InputError(
                    f"cors_origins: {origin!r} is no origin; write it like https://example.org, with no path."
                )
        if not self.has_keys:
            self._check_openness()

    @property
    def has_keys(self) -> bool:
        """Whether whoever asks needs a key."""
        return self.keys is not None or self.api_key is not None

    def key_file(self) -> KeyFile:
        """The keys.

        Raises:
            InputError: the keys file cannot be read or used, or holds no key.
        """
        own = [Key(digest_of(self.api_key), Caller("api-key", None, True, True))] if self.api_key else []
        return KeyFile(self.keys, own)

    def _check_openness(self) -> None:
        if "*" in self.cors_origins:
            raise InputError(
                "cors_origins: '*' without keys lets every page that somebody opens ask this server; name "
                "the origins, or give keys."
            )
        if not is_loopback(self.host) and not self.no_auth:
            raise InputError(
                f"host={self.host!r} can be reached from other machines, and there are no keys: make some "
                "(`nbce-rag key new NAME --keys FILE`) and start with --keys FILE; or say --no-auth, where "
                "something before the server asks for them."
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def named_index(text: str) -> tuple[str, str]:
    """The name under which an index is served, and its folder or URL.

    Args:
        text: NAME=PLACE; or the place alone, whose name is then that of its folder, or in a database that of
            its `?index=` or else of the database, made plain.

    Raises:
        InputError: nothing is left of that name.
    """
    name, sign, place = text.partition("=")
    if sign and not is_database(text) and not Path(expand_home(text)).is_dir():
        return name, place
    if is_database(text):
        url = urlsplit(text)
        own = parse_qs(url.query).get("index", [url.path])[0]
    else:
        own = Path(expand_home(text)).absolute().name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", own).strip("-._")[:64]
    if not name:
        place = "URL" if is_database(text) else text  # which may hold a password
        raise InputError(f"The {place} has no name that an index could be served under; write NAME={place}.")
    return name, text
