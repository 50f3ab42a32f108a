"""A model that vLLM serves, behind the seam: `nbce_rag.models.model.Model`, but it holds the loop itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from ...errors import InputError
from ...kv.store import ContextStore
from ...prompts.tokenizer import Tokenizer
from ..model import Can, Reading, RowPrompt, TokenIds
from .decoder import VllmDecoder
from .loop import Works, submit
from .reading import read_prompt
from .rows import VllmRows
from .servers import Servers
from .wire import Hello

__all__ = ["VllmModel", "VllmOpening"]

_MUCH = 2**50


class VllmOpening:
    """A `nbce_rag.models.model.Opening`: rows, and the requests that read them."""

    def __init__(self, rows: VllmRows, works: Works[Reading]) -> None:
        self._rows, self._works = rows, works

    def wait(self, seconds: float) -> bool:
        return self._works.wait(seconds)

    def result(self) -> tuple[VllmRows, list[Reading]]:
        return self._rows, self._works.results()

    def cancel(self) -> None:
        self._works.cancel()


class VllmModel:
    """A causal language model behind one or several vLLM servers; make one with
    `nbce_rag.models.loading.load_model`.

    Args:
        name: that the servers know it by.
        servers: who have it.
        hello: what their plugin says of itself.
        root: folder or hub id of its weights, as a server names it.
        window: the most tokens of a row.
        tokenizer: the model's.
        vocab_size: width of its log-probs.
        eos_ids: every token that ends an answer.
    """

    dtype = "float32"  # of what comes back; keys and values never do
    device = torch.device("cpu")
    staging = None  # contexts are vLLM's own
    batch_tokens = 2**31 - 1

    def __init__(
        self,
        name: str,
        servers: Servers,
        hello: Hello,
        *,
        root: str,
        window: int,
        tokenizer: Tokenizer,
        vocab_size: int,
        eos_ids: frozenset[int],
    ) -> None:
        self.name = name
        self.servers = servers
        self.window = window
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.eos_ids = eos_ids
        self.fingerprint = f"vllm {hello.vllm} {root}"
        self.can = Can(
            rewind=False,
            repeat=False,
            grammar=hello.grammar,
            round=False,
            steps=False,
            distributions=False,
            store=False,
        )

    def __repr__(self) -> str:
        urls = dict.fromkeys(instance.url for instance in self.servers.instances)
        return f"VllmModel({self.name!r} at {', '.join(urls)})"

    def cost(self, rows: int, tokens: int) -> int:
        """Nothing here; vLLM lets what does not fit wait."""
        return 0

    def context_bytes(self, tokens: int) -> int:
        """Nothing here: vLLM's prefix cache has them."""
        return 0

    def free(self) -> int:
        """More than anybody needs."""
        return _MUCH

    def open(
        self,
        prompts: Sequence[RowPrompt],
        room: int,
        store: ContextStore | None = None,
        batch_tokens: int | None = None,
    ) -> tuple[VllmRows, list[Reading]]:
        """See `nbce_rag.models.model.Model.open`.

        Raises:
            RemoteError: no server could.
        """
        return self.opening(prompts, room).result()

    def opening(self, prompts: Sequence[RowPrompt], room: int) -> VllmOpening:
        """See `nbce_rag.models.model.LoopModel.opening`: one request a prompt, all at the same time."""
        for prompt in prompts:
            if prompt.longest + room > self.window:
                raise InputError(
                    f"A row of {prompt.longest} tokens and {room} behind it do not fit into the "
                    f"{self.window} of the server (--max-model-len)."
                )
        works = Works([read_prompt(self.servers, self.name, prompt) for prompt in prompts])
        return VllmOpening(VllmRows.of(prompts, room), works)

    def read(
        self, contexts: Iterable[TokenIds], store: ContextStore, batch_tokens: int | None = None
    ) -> None:
        """See `nbce_rag.models.model.Model.read`.

        Raises:
            InputError: always; there is nothing to put into a store.
        """
        raise InputError(
            f"{self.name!r} is served by vLLM, whose prefix cache keeps keys and values: nothing of them "
            "comes here, so that there is nothing to read ahead."
        )

    def decoder(self) -> VllmDecoder:
        """See `nbce_rag.models.model.LoopModel.decoder`."""
        return VllmDecoder(self.servers, self.name, self.tokenizer, self.eos_ids)

    def close(self) -> None:
        """End all connections; another question opens new ones."""
        submit(self.servers.close()).result()
