"""A tiny chat model behind NBCELLM, a small index, and a recorder of LlamaIndex's events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_index.core")

import tiny_models
from index_tools import bag_of_words
from llama_index.core import Settings, StorageContext, VectorStoreIndex
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode

from llama_index_nbce import NBCELLM, PassageVectorStore
from nbce_rag.engine.nbce import NBCE
from nbce_rag.fusion import Posterior
from nbce_rag.index import PassageIndex
from nbce_rag.models.transformers.loading import wrap_model

TEXTS = {
    "ferry": "The ferry to the island is run by Ada and leaves at noon from the old harbour.",
    "market": "The market in the square opens at eight and sells fish, bread and apples.",
    "museum": "The museum was built in 1891 and holds 2,350 paintings.",
}
QUESTION = "Who runs the ferry?"


class Events(BaseEventHandler):
    """Names of the events, in their order, and the events themselves."""

    seen: list[Any] = []  # noqa: RUF012 -- a pydantic field

    @classmethod
    def class_name(cls) -> str:
        return "Events"

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.seen.append(event)

    @property
    def names(self) -> list[str]:
        return [event.class_name() for event in self.seen]

    def count(self, name: str) -> int:
        return self.names.count(name)

    @property
    def llm_calls(self) -> int:
        return self.count("LLMChatStartEvent") + self.count("LLMCompletionStartEvent")


@pytest.fixture
def events() -> Iterator[Events]:
    root = get_dispatcher("root")
    handler = Events(seen=[])
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


@pytest.fixture(autouse=True)
def _no_default_llm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever falls back on LlamaIndex's default model fails, as it does for people without OpenAI."""
    monkeypatch.setattr(Settings, "_llm", None)
    monkeypatch.setattr(Settings, "_embed_model", None)


@pytest.fixture(scope="session")
def make_engine() -> Callable[..., NBCE]:
    """`make_engine(chat=True, **options)`: an engine on a tiny Llama with a window of 4096 tokens."""
    loaded: dict[bool, Any] = {}

    def make(chat: bool = True, **options: Any) -> NBCE:
        if chat not in loaded:
            tokenizer = tiny_models.build_tokenizer(chat=chat)
            model = tiny_models.build_model("llama", len(tokenizer), window=4096)
            loaded[chat] = wrap_model(model, tokenizer)
        # Without the row of several passages that long answers have: these tests count rows.
        return NBCE(loaded[chat], **{"max_tokens": 8, "fusion": Posterior(together=0), **options})

    return make


@pytest.fixture
def llm(make_engine: Callable[..., NBCE]) -> NBCELLM:
    return NBCELLM(engine=make_engine())


@pytest.fixture
def base_llm(make_engine: Callable[..., NBCE]) -> NBCELLM:
    """Of a model without a chat template."""
    return NBCELLM(engine=make_engine(chat=False))


@pytest.fixture
def nodes() -> list[TextNode]:
    """Three nodes of two documents."""
    made = []
    for number, (id_, text) in enumerate(TEXTS.items()):
        node = TextNode(id_=id_, text=text, metadata={"page": number})
        node.excluded_llm_metadata_keys = ["page"]
        document = "town.txt" if id_ != "ferry" else "sea.txt"
        node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=document)
        made.append(node)
    return made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PassageVectorStore]:
    with PassageIndex.create(tmp_path / "kb", bag_of_words) as index:
        yield PassageVectorStore(index)


@pytest.fixture
def index(store: PassageVectorStore, nodes: list[TextNode]) -> VectorStoreIndex:
    context = StorageContext.from_defaults(vector_store=store)
    return VectorStoreIndex(nodes, storage_context=context, embed_model=store.embed_model)
