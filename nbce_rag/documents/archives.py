"""Zip files with markup in them, as of office programs and e-books: opened within limits."""

from __future__ import annotations

import io
import lzma
import posixpath
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import NbceError, ReadError
from .limits import ReadLimits

__all__ = ["Archive", "readable"]

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_DECLARATIONS = tuple(
    word.encode(code) for word in ("<!DOCTYPE", "<!ENTITY") for code in ("utf-8", "utf-16-le")
)
_TREE = 8
"""Bytes of memory that a byte of markup takes as a tree, at most as a rule."""


@contextmanager
def readable(path: Path, kind: str) -> Iterator[None]:
    """Whatever a library raises over a damaged file, as a ReadError that names the file.

    Args:
        path: Of the file.
        kind: What it should be, such as "a Word document".
    """
    try:
        yield
    except (NbceError, MemoryError, RecursionError, ImportError):
        raise
    except Exception as error:  # damaged files make readers raise nearly every kind
        raise ReadError(
            f"{path}: is not {kind} that can be read ({type(error).__name__}: {str(error)[:200]})."
        ) from error


class Archive:
    """The parts of a zip file. Nothing of it is ever larger than the zip says, and that is within limits.

    Args:
        path: Of the file, for messages.
        data: Its content.
        limits: `max_unpacked_bytes` is of all parts together; a part of markup may have an eighth of it,
            since it takes some eight times its size when it is parsed.
        kind: What it should be, such as "a Word document".

    Raises:
        ReadError: It is no zip file, or damaged, or encrypted, or unpacks to too much.
    """

    def __init__(self, path: Path, data: bytes, limits: ReadLimits, kind: str) -> None:
        self._path, self._data, self._limits, self._kind = path, data, limits, kind
        if data.startswith(_OLE):
            raise ReadError(
                f"{path}: is encrypted, or in a format of before 2007; save it without a password as {kind}."
            )
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, struct.error) as error:
            raise ReadError(f"{path}: is damaged or not {kind} ({error}).") from error
        parts = self._zip.infolist()
        self.names = tuple(part.filename for part in parts)
        # zipfile never gives more of a part than is declared here.
        if (size := sum(part.file_size for part in parts)) > limits.max_unpacked_bytes:
            raise ReadError(
                f"{path}: unpacks to {size:,} bytes, over the limit of {limits.max_unpacked_bytes:,}; "
                "split it, or raise max_unpacked_bytes."
            )

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def read(self, name: str) -> bytes:
        """A part.

        Raises:
            ReadError: It is not there, damaged, encrypted, or too large for markup.
        """
        try:
            part = self._zip.getinfo(name)
            most = self._limits.max_unpacked_bytes // _TREE
            if part.file_size > most and _is_markup(name):
                raise ReadError(
                    f"{self._path}: has {part.file_size:,} bytes of markup in {name}, over the limit of "
                    f"{most:,} (an eighth of max_unpacked_bytes); split it, or raise that."
                )
            return self._zip.read(part)
        except KeyError:
            raise self.damaged(f"it has no {name}") from None
        except ReadError:
            raise
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
            raise ReadError(f"{self._path}: is damaged in {name} ({error}).") from error
        except NotImplementedError as error:  # a way of packing that Python lacks
            raise ReadError(f"{self._path}: cannot be unpacked ({error}); save it again.") from error
        except RuntimeError as error:  # a password is wanted
            raise self.encrypted() from error

    def damaged(self, reason: str) -> ReadError:
        """The error for a file that is not what it should be."""
        return ReadError(f"{self._path}: is damaged or not {self._kind}: {reason}.")

    def encrypted(self) -> ReadError:
        """The error for a file that has a password."""
        return ReadError(f"{self._path}: is encrypted; save it without a password.")

    def markup(self, name: str) -> Any:
        """The root element (lxml) of a part. Entities are not replaced, nothing outside is read.

        Raises:
            ReadError: As in `read`; or it is no XML, nests too deep, or declares entities.
        """
        return self.parse(name, self.read(name))

    def parse(self, name: str, data: bytes) -> Any:
        """As `markup`, of a part that was read."""
        from lxml import etree

        parser = etree.XMLParser(
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=False,
            remove_comments=True,
            remove_pis=True,
        )
        try:
            root = etree.fromstring(data, parser)
        except etree.XMLSyntaxError as error:
            raise ReadError(f"{self._path}: is damaged in {name} ({error}).") from error
        dtd = root.getroottree().docinfo.internalDTD
        if dtd is not None and next(dtd.iterentities(), None) is not None:
            raise ReadError(f"{self._path}: declares entities in {name}, which could be a bomb.")
        return root

    def whole(self) -> bytes:
        """The file without references to parts that it lacks: libraries refuse these, office programs do not.

        Raises:
            ReadError: As in `markup`, of the parts that hold references.
        """
        from lxml import etree

        names = set(self.names)
        changes: dict[str, bytes] = {}
        for name in names:
            folder, _, last = name.rpartition("_rels/")
            if not last.endswith(".rels"):
                continue
            root = self.markup(name)
            dangling = [
                reference
                for reference in root
                if reference.get("TargetMode") != "External"
                and posixpath.normpath(posixpath.join(f"/{folder}", reference.get("Target") or ""))[1:]
                not in names
            ]
            for reference in dangling:
                root.remove(reference)
            if dangling:
                changes[name] = etree.tostring(root)
        if not changes:
            return self._data
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name in dict.fromkeys(self.names):
                archive.writestr(name, changes.get(name) or self.read(name))
        return stream.getvalue()

    def check_markup(self) -> None:
        """Refuses declarations of types and entities in all parts, for libraries that parse these themselves.

        Office programs never write any.

        Raises:
            ReadError: As in `read`; or there is one.
        """
        for name in self.names:
            if _is_markup(name):
                data = self.read(name)
                if any(word in data for word in _DECLARATIONS):
                    raise ReadError(f"{self._path}: declares entities in {name}, which could be a bomb.")


def _is_markup(name: str) -> bool:
    return name.lower().endswith((".xml", ".rels", ".vml", ".opf", ".ncx", ".xhtml", ".html", ".htm"))
