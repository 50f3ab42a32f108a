"""What chat model and completion model have in common: fields, the engine behind them, its options."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast
from weakref import WeakValueDictionary

from langchain_core.utils import from_env
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, field_validator, model_validator

from nbce_rag import (
    DEFAULT_MODEL,
    Answerer,
    InputError,
    Options,
    RemoteNBCE,
    __version__,
    check_score_scale,
    expand_home,
)

from .documents import SCORE_KEY

__all__ = ["OPTION_NAMES", "STRICT", "NBCESettings", "check_options", "in_our_names"]

STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

OPTION_NAMES = tuple(field.name for field in dataclasses.fields(Options))
_ALIASES = {"max_new_tokens": "max_tokens", "stop_sequences": "stop", "score_kind": "score_scale"}
# What other packages call what is called otherwise here, or is not there.
_ELSEWHERE = {
    **dict.fromkeys(("model_path", "model_id", "model_name", "repo_id"), "model"),
    **dict.fromkeys(("num_predict", "n_predict", "max_completion_tokens", "max_length"), "max_tokens"),
    **dict.fromkeys(("documents", "docs", "context"), "contexts, which a call takes"),
    **dict.fromkeys(("n_ctx", "num_ctx"), "window=, of the engine= that you give; each row has all of it"),
    **dict.fromkeys(("repeat_penalty", "frequency_penalty", "presence_penalty"), "repetition_penalty"),
    **dict.fromkeys(("model_kwargs", "pipeline_kwargs"), "load, and the options by their names"),
    "grammar": "regex or json_schema",
    "timeout": "max_seconds",
}
_HELD = 2  # engines that one model object keeps alive: its own and one given per call
_WEIGHTS = ("*.safetensors", "*.gguf", "*.json", "*.jinja", "*.model")

# How a model is loaded, which beside base_url is the server's business.
_OF_LOADING = (
    "model",
    "engine",
    "device",
    "dtype",
    "revision",
    "trust_remote_code",
    "local_files_only",
    "adapter",
    "quantization_config",
    "device_map",
    "attn_implementation",
    "token",
    "cache_dir",
    "check",
    "backend",
    "load",
)
_API_KEY = "NBCE_API_KEY"
_URLS = ("http://", "https://")  # of vLLM servers, as a model's name
_REMOTE = "nbce"  # the server's model, as long as its name is not known

_engines: WeakValueDictionary[tuple[Any, ...], Answerer] = WeakValueDictionary()
_loading = threading.Lock()


class NBCESettings(BaseModel):
    """Fields of `ChatNBCE` and `NBCELLM`. Options that are None are the engine's own defaults."""

    model_config = STRICT

    model: str = Field(default_factory=from_env("NBCE_MODEL", default=DEFAULT_MODEL))
    """Hub id, folder or GGUF file; default: the environment variable NBCE_MODEL, else the packaged model. The
    weights are loaded when they are first used, and shared by all objects of the same model. Or the URL of a
    vLLM server (extra `[vllm]`), or several with commas between them."""
    engine: Any = Field(default=None, exclude=True, repr=False)
    """An `nbce_rag.NBCE` that is already loaded, or an `nbce_rag.RemoteNBCE`, in place of `model`."""
    base_url: str | None = None
    """URL of a server that `nbce-rag serve` runs, in place of a model in this process (extra `[client]`);
    options that are None are the server's defaults. torch is not loaded then."""
    device: str | None = None
    dtype: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    local_files_only: bool = False
    adapter: str | None = None
    """Folder or hub id of a LoRA adapter laid on the model (extra `[lora]`)."""
    quantization_config: Any = None
    """As transformers takes it, an object or a dict: how weights are quantised while they are loaded."""
    device_map: Any = None
    attn_implementation: str | None = None
    token: SecretStr | None = Field(default=None, exclude=True)
    """To log in to the hub."""
    cache_dir: str | None = None
    check: bool = True
    """Refuse a model whose rows do not give what whole passes give."""
    backend: str | None = None
    """What reads the model: "transformers", "llama.cpp" or "vllm"; None takes what fits it."""
    load: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of `NBCE.from_pretrained`, such as `{"n_gpu_layers": 20}`."""

    fusion: Any = None
    """Name or object of the fusion rule."""
    style: str | None = None
    """"short" or "long": how long an answer the model's built-in wording asks for."""
    max_tokens: int | None = None
    """Also taken as `max_new_tokens`."""
    max_seconds: float | None = None
    """Seconds that an answer may take, reading the documents included; then a TimeoutError is raised."""
    stop: list[str] | None = None
    """Also taken as `stop_sequences`."""
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    bad_words: list[str] | None = None
    seed: int | None = None
    json_schema: dict[str, Any] | str | None = None
    regex: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    thinking: bool | None = None
    """Whether a model that can think before it answers does; the thought is `reasoning_content` in
    `additional_kwargs` of the message, and a "reasoning" block of its `content_blocks`."""
    max_thought_tokens: int | None = None
    passages_per_row: int | None = None
    joint_row: bool | None = None
    order_labels: bool | None = None
    parts: bool | None = None
    abstain_below: float | None = None
    abstention: str | None = None
    answer_without_context: bool | None = None
    refusal_threshold: float | None = None
    relevance: bool | None = None
    entropies: bool | None = None
    top_logprobs: int | None = None
    """So many of the most probable tokens at each place, in the `logprobs`, which it brings along."""
    prompt_lookup_num_tokens: int | None = None
    sleep: bool | None = None
    drop_rows_after: int | None = None
    conflicts: bool | None = None
    citation_threshold: float | None = None

    score_key: str = SCORE_KEY
    """Where documents' metadata hold their retrieval score."""
    score_scale: str | None = None
    """What the scores of documents are: "cosine", "distance", "logit", "rank" or one of the exact scales of
    `nbce_rag.prompts.scores`; None tells it from them. Also taken as `score_kind`."""
    history_contexts: str = "drop"
    """What becomes of passages of earlier turns: "drop" or "keep_as_text"."""
    mark_key: SecretStr | None = None
    """With it only marks count that `format_passages(key=...)` made with the same key, so that a question
    cannot hold passages."""
    timeout: float | None = None
    """As `max_seconds`, by the name that LangChain's other packages use."""
    logprobs: bool = False
    """Whether `response_metadata["logprobs"]` has the log-probability of each token, in nats, as OpenAI's
    integration gives them; under the fused distribution."""
    streaming: bool = False
    max_retries: int | None = Field(default=None, exclude=True)
    """With `base_url`, how often a request is tried again that found no room or no connection, 2 if None;
    without it accepted for LangChain's sake, since there is no service that could fail."""
    api_key: SecretStr | None = Field(default=None, exclude=True)
    """With `base_url`, a key of the server's; default: the environment variable NBCE_API_KEY. Of vLLM servers
    theirs. Likewise accepted without either."""

    _held: dict[str, Answerer] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = in_our_names(values)
        if unknown := sorted(set(values) - set(cls.model_fields)):
            raise InputError(
                f"Unknown argument {', '.join(unknown)} of {cls.__name__}{_hint(unknown)}; it takes "
                f"{', '.join(sorted(cls.model_fields))}."
            )
        if isinstance(values.get("model"), os.PathLike):
            values["model"] = os.fspath(values["model"])
        return values

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        if self.base_url is not None:
            self._check_remote()
        base = Options() if self.engine is None else self.engine.options
        base.updated(**self._changes())
        return self

    def _check_remote(self) -> None:
        fields = type(self).model_fields
        names = [
            name
            for name in _OF_LOADING
            if name in self.model_fields_set
            and getattr(self, name) != fields[name].get_default(call_default_factory=True)
        ]
        if names:
            raise InputError(
                f"{', '.join(names)} beside base_url={self.base_url!r}: how a model is loaded belongs to the "
                f"server; leave out {', '.join(names)}, or base_url."
            )

    @field_validator("engine")
    @classmethod
    def _check_engine(cls, engine: Any) -> Any:
        if engine is not None and not isinstance(engine, Answerer):
            raise ValueError(f"engine must be an nbce_rag.NBCE, got {type(engine).__name__}")
        return engine

    @field_validator("score_scale")
    @classmethod
    def _check_scale(cls, scale: str | None) -> str | None:
        check_score_scale(scale)
        return scale

    @field_validator("stop", "bad_words", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def nbce(self, model: str | None = None) -> Answerer:
        """The engine, loaded now if it was not: an `nbce_rag.NBCE`, or with `base_url` a `RemoteNBCE`.

        Args:
            model: another model for one call.

        Raises:
            ModelError, MissingDependencyError: it cannot be loaded.
            RemoteError: the server cannot be reached, or refuses.
            InputError: another model than the server's.
        """
        if self.base_url is not None:
            return self._remote(model)
        if self.engine is not None and model in (None, self.engine.model.name, self.model):
            made: Answerer = self.engine
            return made
        name = _one_spelling(model or self.model)
        loading = {
            "device": self.device,
            "dtype": self.dtype,
            "revision": self.revision,
            "trust_remote_code": self.trust_remote_code,
            "local_files_only": self.local_files_only,
            "adapter": self.adapter if model in (None, self.model) else None,  # it fits no other
            "quantization_config": self.quantization_config,
            "device_map": self.device_map,
            "attn_implementation": self.attn_implementation,
            "cache_dir": self.cache_dir,
            "check": self.check,
            "backend": self.backend,
            **self.load,
        }
        secret = self.api_key if name.startswith(_URLS) or self.backend == "vllm" else None
        secrets = {"token": self.token, "api_key": secret}
        plain = {one: None if value is None else value.get_secret_value() for one, value in secrets.items()}
        key = (name, repr(loading), _weights(name), _weights(loading["adapter"]), plain["api_key"])
        with _loading:
            engine = _engines.get(key)
            if engine is None:
                from nbce_rag import NBCE

                engine = _engines[key] = NBCE.from_pretrained(
                    None if name == DEFAULT_MODEL else name,
                    **{**plain, **loading},
                )
            self._held.pop(name, None)
            self._held[name] = engine
            while len(self._held) > _HELD:
                self._held.pop(next(n for n in self._held if n != _one_spelling(self.model)))
        return engine

    def _remote(self, model: str | None) -> RemoteNBCE:
        api_key = os.environ.get(_API_KEY) if self.api_key is None else self.api_key.get_secret_value()
        retries = {} if self.max_retries is None else {"max_retries": self.max_retries}
        key = (_REMOTE, self.base_url, api_key, self.max_retries)
        engine = _engines.get(key)
        if engine is None:
            engine = RemoteNBCE(str(self.base_url), api_key, **retries)
        with _loading:
            engine = self._held[_REMOTE] = _engines.setdefault(key, engine)
        if model not in (None, self.model, _REMOTE, engine.model.name):
            raise InputError(
                f"model={model!r} beside base_url={self.base_url!r}: the server has one model, "
                f"{engine.model.name!r}; leave model out."
            )
        return cast(RemoteNBCE, engine)

    def name_of(self, model: str | None = None) -> str:
        """Name of the model, also while it is not loaded."""
        if model is not None:
            return model
        if self.base_url is not None:
            return self._held[_REMOTE].model.name if _REMOTE in self._held else _REMOTE
        return self.model if self.engine is None else str(self.engine.model.name)

    def options(self, engine: Answerer, stop: Sequence[str] | None, call: Mapping[str, Any]) -> Options:
        """Options of one call: the engine's, changed by the fields, changed by those of the call.

        Raises:
            InputError: an unknown option, or one that is out of range.
        """
        changes = self._changes()
        call = in_our_names(call)
        changes.update(
            (name, value) for name, value in call.items() if value is not None or name not in OPTION_NAMES
        )
        if stop is not None:
            changes["stop"] = stop
        if isinstance(changes.get("stop"), str):
            changes["stop"] = [changes["stop"]]
        for one, other in (("json_schema", "regex"), ("regex", "json_schema")):
            if call.get(one) is not None and call.get(other) is None:
                changes.pop(other, None)  # a call's constraint takes the place of a field's
        return engine.options.updated(**changes)

    def _changes(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in OPTION_NAMES}
        fields["max_seconds"] = self.timeout if self.max_seconds is None else self.max_seconds
        return {name: value for name, value in fields.items() if value is not None}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy that shares the engines: weights are not copied."""
        memo = {} if memo is None else memo
        for engine in (self.engine, *self._held.values()):
            memo[id(engine)] = engine
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[Any, Any]:
        """Without weights; they are loaded again when they are first used.

        Raises:
            InputError: an engine was given, which cannot be sent anywhere.
        """
        if self.engine is not None:
            raise InputError(
                f"{type(self).__name__} was given an engine that is loaded, and cannot be pickled with it; "
                "give model= in place of engine=."
            )
        state = super().__getstate__()
        return {**state, "__pydantic_private__": {**state["__pydantic_private__"], "_held": {}}}

    @property
    def key(self) -> str | None:
        """The key of passage marks in the clear."""
        return None if self.mark_key is None else self.mark_key.get_secret_value()

    @property
    def identity(self) -> dict[str, Any]:
        """All that changes an answer: the key of caches, and what traces show. Loads nothing."""
        plain = {"device", "dtype", "revision", "adapter", "backend", "load"}
        plain |= {"score_key", "score_scale", "history_contexts", "logprobs"}
        made: dict[str, Any] = {name: getattr(self, name) for name in sorted({*plain, *OPTION_NAMES})}
        made["fusion"] = None if self.fusion is None else _name_of_rule(self.fusion)
        if self.quantization_config is not None:
            made["quantization_config"] = repr(self.quantization_config)
        made["model"] = _REMOTE if self.base_url is not None else self.name_of()
        made["nbce_rag"] = __version__
        if self.key is not None:
            made["mark_key"] = hashlib.sha256(self.key.encode()).hexdigest()[:16]
        if self.engine is not None:
            made["engine"] = {
                "fingerprint": self.engine.model.fingerprint,
                "options": repr(self.engine.options),
                "prompt": repr(self.engine.prompt),
            }
        elif self.base_url is not None:
            made["base_url"] = self.base_url
        else:
            made["weights"] = [_weights(self.model), _weights(self.adapter)]
        return made


def check_options(call: Mapping[str, Any], others: Sequence[str]) -> None:
    """Raises InputError for what a call may not give: neither an option nor one of the other names."""
    names = {*OPTION_NAMES, *others}
    if unknown := sorted(set(call) - names - set(_ALIASES)):
        raise InputError(
            f"Unknown option {', '.join(unknown)}{_hint(unknown)}; a call takes {', '.join(sorted(names))}."
        )


def in_our_names(call: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the names that LangChain's other packages use replaced by ours."""
    for alias, name in _ALIASES.items():
        if call.get(alias) is not None and call.get(name) is not None:
            raise InputError(f"{alias} and {name} are the same; give one of them.")
    return {_ALIASES.get(name, name): value for name, value in call.items()}


def _hint(unknown: Sequence[str]) -> str:
    ours = dict.fromkeys(_ELSEWHERE[name] for name in unknown if name in _ELSEWHERE)
    return f" (here it is {' and '.join(ours)})" if ours else ""


def _one_spelling(model: str) -> str:
    """The absolute path of what lies on this machine, however it was written."""
    path = Path(expand_home(model))
    return str(path.resolve()) if model != DEFAULT_MODEL and path.exists() else model


def _name_of_rule(rule: Any) -> str:
    return rule if isinstance(rule, str) else repr(rule)


def _weights(model: str | None) -> str | None:
    """What tells the files of a local model from those that lie there at another time; None for a hub id."""
    if model is None:
        return None
    path = Path(expand_home(model))
    try:
        if not path.exists():
            return None
        files = sorted({f for kind in _WEIGHTS for f in path.glob(kind)}) if path.is_dir() else [path]
        state = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    except OSError:
        return None
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]
