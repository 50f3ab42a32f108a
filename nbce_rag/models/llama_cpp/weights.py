"""The weights of a GGUF file in llama.cpp's hands, and what the file says of itself."""

from __future__ import annotations

import ctypes
import re
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError, ModelError
from ..weights import weights_hash
from .library import complaint, forget_complaints, library

__all__ = ["Weights", "file_digest", "gguf_files"]

_SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf$")


def gguf_files(path: Path) -> list[Path]:
    """The file, or all the files of a model that was split, whichever of them is given, in their order.

    Raises:
        ModelError: one of them is not there.
    """
    split = _SPLIT.match(path.name)
    files = [path]
    if split:
        stem, _, count = split.groups()
        files = [path.with_name(f"{stem}-{n:05d}-of-{count}.gguf") for n in range(1, int(count) + 1)]
    for file in files:
        if not file.is_file():
            raise ModelError(f"No GGUF file at {str(file)!r}; give the path of an existing file.")
    return files


def file_digest(files: Sequence[Path]) -> str:
    """Hash of what the files hold.

    Raises:
        ModelError: one cannot be read.
    """
    try:
        return weights_hash(files)
    except OSError as error:
        name = error.filename or files[0]
        raise ModelError(f"Cannot read the GGUF file {str(name)!r}: {error.strerror}.") from error


class Weights:
    """A model that llama.cpp has loaded. Its memory is given back by `close`, or with the object.

    Args:
        path: GGUF file; the first one of a model that was split.
        gpu_layers: how many layers go to the GPU; a negative number is all of them.
        mmap: map the file into memory in place of reading it.
        native: a model of llama.cpp's own that is loaded already, in place of all that.
        owner: what keeps `native` alive.

    Attributes:
        pointer: llama.cpp's model.
        vocab: its vocabulary.
        name: of the file, for errors.

    Raises:
        ModelError: damaged, or of an architecture that llama.cpp does not know or we cannot use.
        InputError: layers for a GPU, and this build of llama.cpp knows none.
    """

    def __init__(
        self,
        path: str,
        *,
        gpu_layers: int = 0,
        mmap: bool = True,
        native: Any = None,
        owner: Any = None,
    ) -> None:
        bound = library()
        self.name = path
        self._owner = owner
        self._finalizer: weakref.finalize[..., Any] | None = None
        if native is None:
            if gpu_layers and not bound.llama_supports_gpu_offload():
                raise InputError(
                    f"n_gpu_layers={gpu_layers}: this build of llama.cpp knows no GPU. Leave it out, or "
                    "install llama-cpp-python anew with CMAKE_ARGS for yours, such as -DGGML_CUDA=on."
                )
            native = _load(path, gpu_layers, mmap)
            self._finalizer = weakref.finalize(self, bound.llama_model_free, native)
        self.pointer = native
        self.vocab = bound.llama_model_get_vocab(native)
        self._refuse_unusable()

    @property
    def closed(self) -> bool:
        """Whether the memory was given back."""
        if self._owner is not None:
            return not self._owner._model.model
        return self._finalizer is not None and not self._finalizer.alive

    def close(self) -> None:
        """Give the memory back; contexts have to be closed before. A model of another owner stays."""
        if self._finalizer is not None:
            self._finalizer()

    def meta(self, key: str) -> str | None:
        """What the file says under a key, as text; None if it says nothing."""
        bound = library()
        room = 1 << 10
        while True:
            text = ctypes.create_string_buffer(room)
            size = bound.llama_model_meta_val_str(self.pointer, key.encode(), text, room)
            if size < room:
                return text.value.decode(errors="replace") if size >= 0 else None
            room = size + 1

    @property
    def is_recurrent(self) -> bool:
        """Whether a state that takes no token back is kept beside keys and values, or in their place."""
        bound = library()
        recurrent = bound.llama_model_is_recurrent(self.pointer) or bound.llama_model_is_hybrid(self.pointer)
        return bool(recurrent)

    @property
    def window(self) -> int:
        """Tokens that the model was made for."""
        return int(library().llama_model_n_ctx_train(self.pointer))

    @property
    def sliding_window(self) -> int:
        """Tokens that layers with a sliding window see, 0 where none has one."""
        return int(library().llama_model_n_swa(self.pointer))

    @property
    def vocab_size(self) -> int:
        return int(library().llama_vocab_n_tokens(self.vocab))

    def _refuse_unusable(self) -> None:
        bound = library()
        architecture = self.meta("general.architecture")
        way_out = "Use a decoder-only causal LM (Llama, Qwen, Mistral, Gemma, Phi, ...)."
        if bound.llama_model_has_encoder(self.pointer) or not bound.llama_model_has_decoder(self.pointer):
            raise ModelError(f"{self.name!r} ({architecture}) is an encoder-decoder model. {way_out}")
        causal = self.meta(f"{architecture}.attention.causal")
        if causal == "false" or bound.llama_model_is_diffusion(self.pointer):
            raise ModelError(f"{self.name!r} ({architecture}) reads in both directions. {way_out}")
        if self.vocab_size == 0:
            raise ModelError(f"{self.name!r} ({architecture}) came without a vocabulary. {way_out}")


def _load(path: str, gpu_layers: int, mmap: bool) -> Any:
    bound = library()
    settings = bound.llama_model_default_params()
    settings.n_gpu_layers = gpu_layers
    settings.load_mode = bound.LLAMA_LOAD_MODE_MMAP if mmap else bound.LLAMA_LOAD_MODE_NONE
    forget_complaints()
    native = bound.llama_model_load_from_file(path.encode(), settings)
    if not native:
        reason = complaint() or "llama.cpp does not say why"
        raise ModelError(f"Cannot read the GGUF file {path!r}: {reason}. Give a whole file of a known model.")
    return native
