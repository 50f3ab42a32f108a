"""Which files of types that nobody has named are text."""

from __future__ import annotations

import codecs
import stat
from pathlib import Path

__all__ = ["OTHER_TYPES", "is_text", "is_text_file"]

_SAMPLE = 8 << 10
_MOST_CONTROLS = 0.01
_MOST_HIGH = 0.5
_CONTROLS = bytes({*range(32)} - {*b"\t\n\v\f\r\x1b"} | {127})
_HIGH = bytes(range(128, 256))

_OTHER_TYPES = """
    ~ .7z .aac .ai .aiff .asc .avi .avif .bak .bin .bmp .bz2 .cer .crt .csr .db .der .dll .dmg .doc .dot
    .dylib .eot .eps .exe .flac .fodp .fods .fodt .gguf .gif .gpg .gz .heic .ico .iso .jar .jpeg .jpg .key
    .lock .lz4 .m4a .map .mht .mhtml .min.css .min.js .mkv .mov .mp3 .mp4 .mpeg .mpg .msg .npy .npz .o
    .ogg .onnx .otf .p12 .parquet .pem .pfx .pickle .pkl .png .pot .pps .ppt .ps .psd .pt .pyc .rar .rtf
    .safetensors .sig .so .sqlite .sqlite3 .svg .svgz .swp .tar .tgz .tif .tiff .tmp .ttf .wasm .wav .webm
    .webp .whl .wma .wmv .woff .woff2 .xls .xlsb .xlt .xz .zip .zst
"""

OTHER_TYPES = tuple(_OTHER_TYPES.split())
"""Ends of the names of files that are never read as plain text, whatever is in them: pictures, sound,
programs, archives, data of programs, formats that are text only to their programs, keys, backups."""


def is_text(data: bytes) -> bool:
    """Whether bytes look like text: some, no NULs outside of UTF-16, hardly any control characters.

    Text in a legacy encoding counts too, so that reading it says what is wrong with it.

    Args:
        data: The first bytes of a file; 8 KiB are looked at.
    """
    sample = data[:_SAMPLE]
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = sample[2:].decode(
            "utf-16-le" if sample.startswith(codecs.BOM_UTF16_LE) else "utf-16-be", "replace"
        )
        return bool(text) and "\0" not in text
    controls = len(sample) - len(sample.translate(None, _CONTROLS))
    if not sample or b"\0" in sample or controls > _MOST_CONTROLS * len(sample):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        high = len(sample) - len(sample.translate(None, _HIGH))
        return high <= _MOST_HIGH * len(sample)
    return True


def is_text_file(path: Path) -> bool:
    """Whether a file, by its name and first bytes, is read as plain text. What is no regular file is not."""
    if path.name.lower().endswith(OTHER_TYPES):
        return False
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as stream:
            return is_text(stream.read(_SAMPLE))
    except (OSError, ValueError):
        return False
