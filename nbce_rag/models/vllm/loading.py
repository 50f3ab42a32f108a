"""Finding vLLM servers, and what has to be known of the model that they have. Loads no weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ...checks import Range
from ...errors import InputError, ModelError, NbceError, RemoteError, warn
from .loop import Works
from .model import VllmModel
from .servers import Instance, Servers
from .transport import SILENCE, Transport, TryAgain
from .wire import HELLO, VERSION, Hello

__all__ = ["load_model", "seen", "server_urls"]

_API_KEY = "VLLM_API_KEY"
_START = (
    "vllm serve MODEL --scheduler-cls nbce_rag.vllm_plugin.scheduler.GangScheduler "
    "--logprobs-mode processed_logprobs (examples/docs/vllm.md)"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a server says of itself.

    Attributes:
        url: where it is.
        name: that it knows the model by.
        root: folder or hub id of the weights.
        window: the most tokens of a row, prompt and answer.
        plugin: what the plugin says, None where there is none.
        problem: why it cannot be asked, or "".
    """

    url: str
    name: str = ""
    root: str = ""
    window: int = 0
    plugin: Hello | None = None
    problem: str = ""


def load_model(
    model: str | Sequence[str] | None = None,
    *,
    api_key: str | None = None,
    server_timeout: float | None = None,
    max_retries: int = 3,
    data_parallel: int = 1,
    tokenizer: Any = None,
) -> VllmModel:
    """The model of one or several vLLM servers with our plugin.

    Args:
        model: their URLs, such as "http://localhost:8000", in a sequence, or in one string with commas
            between them.
        api_key: of the servers, if they want one; None takes the environment variable VLLM_API_KEY.
        server_timeout: seconds without a byte after which a request is given up, and asked elsewhere; None
            is 120.
        max_retries: how often a question is asked again.
        data_parallel: engines behind each server (`--data-parallel-size`); a question goes to one of them.
        tokenizer: folder or hub id of the model's tokenizer, or a tokenizer of transformers; None takes that
            of the weights that the server names.

    Raises:
        InputError: what is no URL, or a number out of range.
        ModelError: a server without the plugin, with another version of it, or with another model than the
            others, or no tokenizer.
        RemoteError: no server can be reached.
        MissingDependencyError: httpx is not installed (extra `[vllm]`).
    """
    urls = server_urls(model)
    for name, value, least in (("max_retries", max_retries, 0), ("data_parallel", data_parallel, 1)):
        Range(least, whole=True).check(name, value)
    if server_timeout is not None:
        Range(0, above=True, note="seconds, or None").check("server_timeout", server_timeout)
    transport = Transport(api_key or os.environ.get(_API_KEY), server_timeout or SILENCE)
    every = Works([_see(transport, url) for url in urls]).results()
    there = [one for one in every if not one.problem]
    if not there:
        raise RemoteError(
            f"No vLLM server can be asked: {'; '.join(one.problem for one in every)}. Start one: {_START}."
        )
    first = there[0]
    hello = _checked(there)
    for one in every:
        if one.problem:
            warn(f"{one.problem}. It is asked once it is there.")
    ready, vocab_size, eos_ids = _tokenizer(tokenizer, first.root)
    ranks = [None] if data_parallel == 1 else range(data_parallel)
    instances = [Instance(url, rank) for url in urls for rank in ranks]
    return VllmModel(
        first.name,
        Servers(instances, transport, max_retries),
        hello,
        root=first.root,
        window=min(one.window for one in there),
        tokenizer=ready,
        vocab_size=vocab_size,
        eos_ids=eos_ids,
    )


def server_urls(model: Any) -> list[str]:
    """URLs of servers, without what their paths add.

    Raises:
        InputError: one that is none, or one twice; or what is neither a text, nor several, nor None.
    """
    if isinstance(model, str):
        texts = model.split(",")
    else:
        texts = list(model) if isinstance(model, Sequence) else [] if model is None else [model]
    urls = []
    for text in texts:
        parts = urlsplit(text.strip()) if isinstance(text, str) else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.netloc:
            raise InputError(
                f"{text!r} is no URL of a vLLM server; give one such as 'http://localhost:8000', or several "
                "with commas between them."
            )
        urls.append(text.strip().rstrip("/").removesuffix("/v1").rstrip("/"))
    if not urls or len(set(urls)) < len(urls):
        raise InputError(f"model={model!r} must name at least one URL of a vLLM server, and none twice.")
    return urls


def seen(model: str | Sequence[str]) -> list[Seen]:
    """What each of some servers says of itself.

    Raises:
        InputError: what is no URL.
        MissingDependencyError: httpx is not installed.
    """
    transport = Transport(os.environ.get(_API_KEY), SILENCE)
    return Works([_see(transport, url) for url in server_urls(model)]).results()


async def _see(transport: Transport, url: str) -> Seen:
    try:
        cards = await transport.get(f"{url}/v1/models")
        card = cards["data"][0]  # the model itself; adapters stand behind it
        name, root, window = str(card["id"]), str(card.get("root") or card["id"]), int(card["max_model_len"])
        # vLLM's own checks come first, so that the request has to be one that it would answer.
        refusal = await transport.refusal(
            f"{url}/v1/completions",
            {"model": name, "prompt": [[0]], "max_tokens": 1, "temperature": 0, "vllm_xargs": {HELLO: 1}},
        )
    except (TryAgain, NbceError) as error:
        return Seen(url, problem=str(error))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return Seen(url, problem=f"{url} does not list its models as vLLM does, and is none")
    # The longest prompt leaves room for one token, also behind a refusal.
    return Seen(url, name, root, window - 1, None if refusal is None else Hello.find(refusal))


def _checked(servers: Sequence[Seen]) -> Hello:
    """What the plugin of the servers says, if they all have the same.

    Raises:
        ModelError: one has none, or another one.
    """
    first = servers[0]
    for one in servers:
        if one.plugin is None:
            raise ModelError(
                f"The vLLM server at {one.url} runs without the plugin of nbce-rag. Install nbce-rag into "
                f"its environment, and start it so: {_START}."
            )
        if one.plugin.version != VERSION:
            raise ModelError(
                f"The plugin at {one.url} (nbce-rag {one.plugin.package}) speaks version "
                f"{one.plugin.version} of the wire, and this nbce-rag {VERSION}; install the same version on "
                "both sides."
            )
        if (one.name, one.root) != (first.name, first.root):
            raise ModelError(
                f"The servers at {first.url} and {one.url} have different models, {first.name!r} "
                f"({first.root}) and {one.name!r} ({one.root}); name servers of one model."
            )
        if one.plugin.rules != first.plugin.rules or one.plugin.grammar != first.plugin.grammar:  # type: ignore[union-attr]
            raise ModelError(
                f"The plugins at {first.url} and {one.url} differ; install the same version in all of them."
            )
    assert first.plugin is not None
    return first.plugin


def _tokenizer(given: Any, root: str) -> tuple[Any, int, frozenset[int]]:
    """The tokenizer, the width of the vocabulary, and the tokens that end an answer."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    from ...files import expand_home
    from ..transformers.tokenizer import TransformersTokenizer, end_ids

    source = expand_home(given) if isinstance(given, (str, os.PathLike)) else root
    native = given
    if given is None or isinstance(given, (str, os.PathLike)):
        try:
            native = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except Exception as error:  # transformers raises whatever the files lead to
            raise ModelError(
                f"There is no tokenizer in {source!r} ({error}); give the folder or hub id of the model's "
                "with tokenizer=."
            ) from error
    size = len(native)
    ends = [native.eos_token_id]
    for kind in (GenerationConfig, AutoConfig):
        try:
            config = kind.from_pretrained(source, trust_remote_code=False)
        except Exception:  # a tokenizer alone will do
            continue
        text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
        ends.append(getattr(text, "eos_token_id", None))
        size = max(size, int(getattr(text, "vocab_size", None) or 0))
    return TransformersTokenizer(native), size, end_ids(ends)
