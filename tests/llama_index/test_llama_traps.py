"""What goes wrong without a word in LlamaIndex, its Hugging Face LLM and its FAISS stores: not here."""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
import shutil
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_index.core
import numpy as np
import pytest
from index_tools import bag_of_words
from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.base.llms.types import CitableBlock, CitationBlock, TextBlock
from llama_index.core.base.response.schema import PydanticResponse, StreamingResponse
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.indices.prompt_helper import PromptHelper
from llama_index.core.llms import LLM, ChatMessage
from llama_index.core.prompts import LangchainPromptTemplate, PromptTemplate
from llama_index.core.query_engine import CitationQueryEngine
from llama_index.core.query_engine.citation_query_engine import CITATION_QA_TEMPLATE
from llama_index.core.response_synthesizers import (
    BaseSynthesizer,
    CompactAndRefine,
    ResponseMode,
    get_response_synthesizer,
)
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery
from pydantic import BaseModel

from llama_index_nbce import (
    NBCELLM,
    NBCESynthesizer,
    PassageVectorStore,
    cited_nodes,
    import_faiss_store,
    nbce_chat_engine,
    nbce_query_engine,
)
from nbce_rag.engine.nbce import NBCE
from nbce_rag.errors import ContextLengthError, InputError, NbceWarning
from nbce_rag.index import PassageIndex
from nbce_rag.index.sqlite.storage import Storage
from nbce_rag.passages import Passage
from nbce_rag.prompts.marks import format_passages

QUESTION = "Who runs the ferry?"
ODD_NUMBERS = [float("nan"), float("inf"), float("-inf"), np.float32(1.5), np.int64(3), {"a": [float("nan")]}]


class Fact(BaseModel):
    """A fact."""

    sure: bool


@pytest.fixture
def scored(nodes: list[TextNode]) -> list[NodeWithScore]:
    return [NodeWithScore(node=node, score=score) for node, score in zip(nodes, [0.8, 0.3, 0.1], strict=True)]


@pytest.fixture
def pairs(tmp_path: Path) -> PassageVectorStore:
    """Two nodes with vectors of their own."""
    store = PassageVectorStore.create(tmp_path / "kb", dimension=2)
    store.add([node("a", [1.0, 0.0]), node("b", [0.0, 1.0])])
    return store


def node(id_: str, embedding: list[float], text: str | None = None) -> TextNode:
    return TextNode(id_=id_, text=text or f"text of {id_}", embedding=embedding)


def contents(store: PassageVectorStore) -> dict[str, tuple[str, list[float] | None]]:
    return {found.node_id: (found.get_content(), found.embedding) for found in store.get_nodes()}


def sent(events: Any) -> list[ChatMessage]:
    """The messages of the last call of the model."""
    starts = [event for event in events.seen if event.class_name() == "LLMChatStartEvent"]
    messages: list[ChatMessage] = starts[-1].messages
    return messages


def strict_json(value: Any) -> None:
    assert json.loads(json.dumps(value, allow_nan=False)) == value


class TestStockSynthesizers:
    @pytest.mark.parametrize(
        "mode",
        [
            ResponseMode.COMPACT,
            ResponseMode.REFINE,
            ResponseMode.SIMPLE_SUMMARIZE,
            ResponseMode.TREE_SUMMARIZE,
            ResponseMode.ACCUMULATE,
            ResponseMode.COMPACT_ACCUMULATE,
        ],
    )
    def test_joined_nodes_are_answered_but_not_without_a_word(
        self, llm: NBCELLM, scored: list[NodeWithScore], mode: ResponseMode
    ) -> None:
        """A synthesizer of LlamaIndex's own joins the nodes: nothing is fused, and nothing would tell."""
        synthesizer = get_response_synthesizer(llm=llm, response_mode=mode)
        with pytest.warns(NbceWarning, match="NBCESynthesizer") as caught:
            assert str(synthesizer.synthesize(QUESTION, scored))
        assert len([w for w in caught if w.category is NbceWarning]) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it was said once
            synthesizer.synthesize(QUESTION, scored)

    @pytest.mark.parametrize("streaming", [False, True])
    def test_completion_models_are_told_too(
        self, base_llm: NBCELLM, scored: list[NodeWithScore], streaming: bool
    ) -> None:
        """A model without chat template gets one text instead of messages."""
        stock = get_response_synthesizer(llm=base_llm, streaming=streaming)

        async def run() -> None:
            response: Any = await stock.asynthesize(QUESTION, scored)
            if streaming:
                assert [text async for text in response.async_response_gen()]

        with pytest.warns(NbceWarning, match="joined text"):
            asyncio.run(run())

    def test_no_false_alarm(self, llm: NBCELLM, scored: list[NodeWithScore], events: Any) -> None:
        """Extractors and passage marks fill in a context_str as well."""
        llm.predict(PromptTemplate("{context_str} Keywords:"), context_str="The market opens at eight.")
        marked = format_passages([Passage("The ferry is run by Ada.", id="f"), Passage("Fish.", id="g")])
        asked = PromptTemplate("{context_str}\n{query_str}").partial_format(query_str=QUESTION)
        llm.predict(asked, context_str=marked)
        ends = [event for event in events.seen if event.class_name() == "LLMChatEndEvent"]
        assert [end.response.raw["nbce"]["rows"] for end in ends] == [1, 3]
        NBCESynthesizer(llm, text_qa_template=asked).synthesize(QUESTION, scored)

    def test_more_tokens_than_the_window_do_not_stop_stock_parts(
        self, make_engine: Callable[..., NBCE], scored: list[NodeWithScore]
    ) -> None:
        """LlamaIndex subtracts num_output from the window and fails on a negative rest."""
        llm = NBCELLM(engine=make_engine(), context_window=400, max_tokens=5000)
        assert llm.metadata.num_output < llm.metadata.context_window
        PromptHelper.from_llm_metadata(llm.metadata)
        response: Any = NBCESynthesizer(llm, max_tokens=4).synthesize(QUESTION, scored)
        assert response.metadata["nbce"]["rows"] == 4

    def test_tokens_are_the_model_s_on_request(self, llm: NBCELLM, monkeypatch: pytest.MonkeyPatch) -> None:
        """LlamaIndex's parts count with the tokenizer of another company's model."""
        monkeypatch.setattr(llama_index.core, "global_tokenizer", None)
        tokenizer: Any = llm.engine.model.tokenizer
        Settings.tokenizer = tokenizer
        text = "船在中午从旧港口出发。 The ferry leaves at noon."
        helper = PromptHelper.from_llm_metadata(llm.metadata)
        assert helper._token_counter.get_string_tokens(text) == len(
            tokenizer.native(text, add_special_tokens=False)["input_ids"]
        )


class TestModel:
    def test_it_takes_what_every_llm_takes(self, make_engine: Callable[..., NBCE]) -> None:
        """Arguments that come from a dict of LlamaIndex are no options of generation."""
        llm = NBCELLM(engine=make_engine(), id_="mine", class_name="NBCELLM")
        assert llm.options == {}

    def test_what_does_not_fit_is_an_error_and_not_garbage(
        self, make_engine: Callable[..., NBCE], scored: list[NodeWithScore]
    ) -> None:
        """Instructions that fill the window leave no room for any passage."""
        llm = NBCELLM(engine=make_engine(), context_window=100)
        template = PromptTemplate("word " * 200 + "{context_str} {query_str}")
        with pytest.raises(ContextLengthError, match="100"):
            NBCESynthesizer(llm, text_qa_template=template).synthesize(QUESTION, scored)

    def test_async_streams_are_async_generators(self, llm: NBCELLM) -> None:
        """LlamaIndex ends the events of nothing else."""

        async def run() -> None:
            chat = await llm.astream_chat([ChatMessage(role="user", content=QUESTION)])
            completion = await llm.astream_complete(QUESTION)
            for stream in (chat, completion):
                assert inspect.isasyncgen(stream)
                await stream.aclose()

        asyncio.run(run())

    def test_its_answers_can_be_history(self, llm: NBCELLM) -> None:
        """Citations of an answer, given back with it, are no contexts of the next question."""
        block = CitableBlock(title="", source="f", content=[TextBlock(text="The ferry is run by Ada.")])
        first = llm.chat(
            [ChatMessage(role="user", blocks=[block, TextBlock(text=QUESTION)])], citation_threshold=0.01
        )
        assert any(isinstance(b, CitationBlock) for b in first.message.blocks)
        question = ChatMessage(role="user", content=QUESTION)
        answer = llm.chat([question, first.message, question])
        assert answer.raw["nbce"]["rows"] == 1


class TestSynthesizer:
    def test_the_helper_takes_what_as_query_engine_drops(
        self, make_engine: Callable[..., NBCE], index: VectorStoreIndex, events: Any
    ) -> None:
        """`as_query_engine` ignores streaming, template and class once a synthesizer is given."""
        pytest.importorskip("llguidance")
        llm = NBCELLM(engine=make_engine(), max_tokens=60)
        zebra = PromptTemplate("Zebra {context_str} {query_str}")
        response = nbce_query_engine(index, llm, text_qa_template=zebra, streaming=True).query(QUESTION)
        assert isinstance(response, StreamingResponse)
        assert (sent(events)[0].content or "").startswith("Zebra")
        assert isinstance(nbce_query_engine(index, llm, output_cls=Fact).query(QUESTION), PydanticResponse)

    def test_the_llm_of_the_settings_is_enough(self, llm: NBCELLM, index: VectorStoreIndex) -> None:
        """Without llm= LlamaIndex asks for OpenAI's package, unless the settings have one."""
        Settings.llm = llm
        engines = (
            index.as_query_engine(response_synthesizer=NBCESynthesizer(), similarity_top_k=3),
            nbce_query_engine(index),
        )
        for engine in engines:
            found: Any = engine.query(QUESTION)
            assert found.metadata["nbce"]["rows"] == 4
        answer: Any = nbce_chat_engine(index, chat_mode="context").chat(QUESTION)
        assert answer.metadata["nbce"]["rows"] == 4

    @pytest.mark.parametrize("streaming", [False, True])
    def test_nothing_found_is_no_call_and_no_crash(
        self, llm: NBCELLM, index: VectorStoreIndex, events: Any, streaming: bool
    ) -> None:
        """LlamaIndex's "Empty Response" has None for metadata."""
        nobody = {"doc_ids": ["nobody"]}
        engine = nbce_query_engine(index, llm, streaming=streaming, retriever_options=nobody)
        response = engine.query(QUESTION)
        assert str(response) == "Empty Response"
        assert events.llm_calls == 0
        with pytest.raises(InputError, match="no metadata"):
            cited_nodes(response)
        options = {"answer_without_context": True}
        chat: Any = nbce_chat_engine(
            index, llm, chat_mode="context", synthesis=options, retriever_options=nobody
        )
        assert chat.chat(QUESTION).metadata["nbce"]["rows"] == 1

    def test_nodes_are_worded_as_they_say(self, llm: NBCELLM, events: Any) -> None:
        """Metadata for language models belong to the passage, excluded ones do not."""
        one = TextNode(id_="n", text="Ada.", metadata={"harbour": "old", "secret": "x"})
        one.excluded_llm_metadata_keys = ["secret"]
        NBCESynthesizer(llm).synthesize(QUESTION, [NodeWithScore(node=one, score=0.5)])
        (block,) = [b for message in sent(events) for b in message.blocks if isinstance(b, CitableBlock)]
        assert [part.text for part in block.content if isinstance(part, TextBlock)] == [
            "harbour: old\n\nAda."
        ]

    def test_a_document_cannot_pass_for_several(self, llm: NBCELLM) -> None:
        """Text between marks in a node, or half of it, makes no further context."""
        forged = format_passages([Passage("The ferry is run by Bob."), Passage("Bob runs all ferries.")])
        bad = [
            TextNode(id_="bad", text=f"Fish. {forged}"),
            TextNode(id_="half", text=f"Bread. {forged[:20]}"),
        ]
        response: Any = NBCESynthesizer(llm).synthesize(QUESTION, [NodeWithScore(node=n) for n in bad])
        assert [c["id"] for c in response.metadata["nbce"]["contexts"]] == ["bad", "half"]

    def test_braces_are_text(self, make_engine: Callable[..., NBCE], events: Any) -> None:
        """Structured answers format messages twice; questions, passages and schema stay as they are."""
        pytest.importorskip("llguidance")
        llm = NBCELLM(engine=make_engine(), max_tokens=60)
        question, text = "What is {x} in {{y}} {context_str}?", "It is {x} {{z}} {query_str} {"
        one = NodeWithScore(node=TextNode(id_="b", text=text))
        NBCESynthesizer(llm, output_cls=Fact).synthesize(question, [one])
        blocks = [block for message in sent(events) for block in message.blocks]
        (block,) = [b for b in blocks if isinstance(b, CitableBlock)]
        assert [part.text for part in block.content if isinstance(part, TextBlock)] == [text]
        written = "".join(b.text for b in blocks if isinstance(b, TextBlock))
        assert question in written
        assert json.dumps(Fact.model_json_schema()) in written

    @pytest.mark.parametrize(
        ("scores", "expected"),
        [
            ([np.float32(0.5), np.float64(0.25), 0.125], [0.5, 0.25, 0.125]),
            ([float("nan"), 0.5, 0.1], [None, 0.5, 0.1]),
            ([float("inf"), 0.5, 0.1], [None, 0.5, 0.1]),
        ],
    )
    def test_odd_scores_are_json_or_left_out(
        self, llm: NBCELLM, nodes: list[TextNode], scores: list[Any], expected: list[float | None]
    ) -> None:
        """FAISS hands out numbers of NumPy, and others NaN."""
        given = [NodeWithScore(node=n, score=s) for n, s in zip(nodes, scores, strict=True)]
        response: Any = NBCESynthesizer(llm).synthesize(QUESTION, given)
        strict_json(response.metadata["nbce"])
        assert [c["score"] for c in response.metadata["nbce"]["contexts"]] == expected

    def test_odd_metadata_of_nodes_do_not_reach_the_report(self, llm: NBCELLM) -> None:
        """Node metadata can hold what JSON cannot, also where a title is looked for."""
        odd = TextNode(
            id_="n", text="Ada.", metadata={"title": float("nan"), "file_name": 3, "when": object()}
        )
        response: Any = NBCESynthesizer(llm).synthesize(QUESTION, [NodeWithScore(node=odd)])
        strict_json(response.metadata["nbce"])

    def test_a_stream_that_is_dropped_leaves_no_half_report(
        self, llm: NBCELLM, scored: list[NodeWithScore]
    ) -> None:
        """What is in the metadata is about the whole answer."""
        response: Any = NBCESynthesizer(llm, streaming=True).synthesize(QUESTION, scored)
        next(response.response_gen)
        response.response_gen.close()
        assert response.metadata["nbce"] == {}
        with pytest.raises(InputError, match="not complete"):
            cited_nodes(response)

    def test_pictures_are_refused(self, llm: NBCELLM) -> None:
        """LlamaIndex's multimodal way brings messages instead of nodes."""
        with pytest.raises(InputError, match="multimodal"):
            NBCESynthesizer(llm, multimodal=True)
        answer = getattr(NBCESynthesizer(llm), "get_response_from_messages", None)
        if answer is not None:  # older LlamaIndex (0.14.5) has no such way
            with pytest.raises(NotImplementedError):
                answer(QUESTION, [])

    def test_the_citation_engine_s_wording_can_be_kept(
        self, llm: NBCELLM, index: VectorStoreIndex, events: Any
    ) -> None:
        """`CitationQueryEngine` drops its own template when it is given a synthesizer."""
        retriever = index.as_retriever(similarity_top_k=3)
        synthesizer = NBCESynthesizer(llm, text_qa_template=CITATION_QA_TEMPLATE)
        engine = CitationQueryEngine(retriever, llm=llm, response_synthesizer=synthesizer)
        response: Any = engine.query(QUESTION)
        assert response.metadata["nbce"]["rows"] == 4
        assert (sent(events)[0].content or "").startswith(CITATION_QA_TEMPLATE.get_template()[:60])

    @pytest.mark.parametrize("chat", [False, True])
    def test_templates_of_langchain(
        self, llm: NBCELLM, scored: list[NodeWithScore], monkeypatch: pytest.MonkeyPatch, chat: bool
    ) -> None:
        """LlamaIndex wraps LangChain's templates, by a package of its own that is not needed here."""
        selector = pytest.importorskip("langchain_classic.chains.prompt_selector")
        prompts = pytest.importorskip("langchain_core.prompts")

        def from_lc_messages(messages: Any) -> list[ChatMessage]:
            roles = {"human": "user"}
            return [ChatMessage(role=roles.get(m.type, m.type), content=m.content) for m in messages]

        for name, members in {
            "llama_index.core.bridge.langchain": {
                "ConditionalPromptSelector": selector.ConditionalPromptSelector
            },
            "llama_index.llms.langchain": {"LangChainLLM": type("LangChainLLM", (), {})},
            "llama_index.llms.langchain.utils": {"from_lc_messages": from_lc_messages},
        }.items():
            module = types.ModuleType(name)
            vars(module).update(members)
            monkeypatch.setitem(sys.modules, name, module)
        template = (
            prompts.ChatPromptTemplate.from_messages(
                [("system", "Facts {context_str}"), ("user", "{query_str}")]
            )
            if chat
            else prompts.PromptTemplate.from_template("Facts {context_str} Ask: {query_str}")
        )
        wrapped = LangchainPromptTemplate(template)
        response: Any = NBCESynthesizer(llm, text_qa_template=wrapped).synthesize(QUESTION, scored)
        assert response.metadata["nbce"]["rows"] == 4
        bare = LangchainPromptTemplate(prompts.PromptTemplate.from_template("Ask: {query_str}"))
        with pytest.raises(InputError, match=r"has no \{context_str\}"):
            NBCESynthesizer(llm, text_qa_template=bare).synthesize(QUESTION, scored)


class TestChatEngines:
    @pytest.mark.parametrize("asynchronous", [False, True])
    @pytest.mark.parametrize("mode", ["context", "condense_plus_context", "condense_question"])
    def test_structured_answers_stream_as_text(
        self, make_engine: Callable[..., NBCE], index: VectorStoreIndex, mode: str, asynchronous: bool
    ) -> None:
        """LlamaIndex's chat engines assert that a stream comes, and objects are none."""
        pytest.importorskip("llguidance")
        llm = NBCELLM(engine=make_engine(), max_tokens=60)
        engine: Any = nbce_chat_engine(
            index, llm, chat_mode=mode, similarity_top_k=3, synthesis={"output_cls": Fact}
        )

        async def run() -> tuple[str, Any]:
            response = await engine.astream_chat(QUESTION)
            return "".join([text async for text in response.async_response_gen()]), response

        if asynchronous:
            text, response = asyncio.run(run())
        else:
            response = engine.stream_chat(QUESTION)
            text = "".join(response.response_gen)
        assert Fact.model_validate_json(text)
        assert response.metadata["nbce"]["rows"] == 4
        assert engine.chat_history[-1].content == text

    def test_core_has_the_private_names_that_are_used(self) -> None:
        """A LlamaIndex that renames one of them would go round what is done there."""
        for owner, names in {
            LLM: ("_get_messages", "_get_prompt", "_extend_messages"),
            BaseSynthesizer: ("_prepare_response_output",),
            ContextChatEngine: ("_get_response_synthesizer",),
            CondensePlusContextChatEngine: ("_get_response_synthesizer",),
        }.items():
            assert [name for name in names if name not in vars(owner)] == []

    def test_core_s_synthesizer_holds_its_template_where_it_is_read(self, llm: NBCELLM) -> None:
        """The chat engines' prompts are taken from the synthesizer that LlamaIndex makes for them."""
        template = PromptTemplate("{context_str} {query_str}")
        assert CompactAndRefine(llm=llm, text_qa_template=template)._text_qa_template is template


class TestStore:
    @pytest.mark.parametrize("value", ODD_NUMBERS, ids=repr)
    def test_numbers_that_json_lacks(self, pairs: PassageVectorStore, value: Any) -> None:
        """NaN, infinity and NumPy's numbers are named, and nothing of their batch is stored."""
        before = contents(pairs)
        with pytest.raises(InputError, match="metadata of node 'odd' cannot be JSON"):
            pairs.add(
                [
                    node("a", [0.5, 0.5], "new"),
                    TextNode(id_="odd", text="x", metadata={"v": value}, embedding=[1.0, 0.0]),
                ]
            )
        assert contents(pairs) == before

    @pytest.mark.parametrize(
        "embedding",
        [[float("nan"), 1.0], [float("inf"), 1.0], [0.0, 0.0], [1.0, 0.0, 0.0], [1.0]],
        ids=["nan", "inf", "zeros", "long", "short"],
    )
    def test_a_vector_that_is_refused_costs_no_node(
        self, pairs: PassageVectorStore, embedding: list[float]
    ) -> None:
        """Replacing a node must not delete it before the new one has been looked at."""
        before = contents(pairs)
        for changed in ([node("a", embedding)], [node("b", [1.0, 1.0]), node("a", embedding)]):
            with pytest.raises(InputError, match="vector"):
                pairs.add(changed)
            assert contents(pairs) == before

    def test_a_node_is_there_all_the_time_its_vector_changes(
        self, pairs: PassageVectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever stops the store between two of its steps, no node is lost."""
        seen: list[set[str]] = []
        add = PassageIndex.add

        def watched(index: PassageIndex, *args: Any, **kwargs: Any) -> int:
            seen.append({passage.id for passage in index})
            if len(seen) == 2:
                raise KeyboardInterrupt
            return add(index, *args, **kwargs)

        monkeypatch.setattr(PassageIndex, "add", watched)
        with pytest.raises(KeyboardInterrupt):
            pairs.add([node("a", [0.0, -1.0])])
        assert seen == [{"a", "b"}, {"a", "b"}]
        assert contents(pairs).keys() == {"a", "b"}
        pairs.add([node("a", [0.0, -1.0])])
        assert contents(pairs) == {"a": ("text of a", [0.0, -1.0]), "b": ("text of b", [0.0, 1.0])}

    def test_a_crash_in_the_middle_leaves_the_state_before(
        self, pairs: PassageVectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is on disk before a commit is what a process leaves that dies there."""
        before = contents(pairs)
        upsert = Storage.upsert

        def dying(storage: Storage, rows: Any) -> int:
            changed = upsert(storage, rows)
            shutil.copytree(pairs.path, tmp_path / "left behind")
            return changed

        monkeypatch.setattr(Storage, "upsert", dying)
        pairs.add([node("a", [1.0, 0.0], "new"), node("c", [1.0, 1.0])])
        assert contents(pairs).keys() == {"a", "b", "c"}
        left = PassageVectorStore.open(tmp_path / "left behind")
        assert contents(left) == before
        found = left.query(VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=9))
        assert found.ids == ["a", "b"]

    def test_a_query_of_another_length_says_so(self, pairs: PassageVectorStore) -> None:
        """A vector of another embedding model must not be compared."""
        with pytest.raises(InputError, match="dimension"):
            pairs.query(VectorStoreQuery(query_embedding=[1.0, 0.0, 0.0]))

    def test_two_stores_of_one_folder_see_each_other(self, pairs: PassageVectorStore) -> None:
        """A store that only reads its files at the start answers from the past."""
        other = PassageVectorStore.open(pairs.path)
        query = VectorStoreQuery(query_embedding=[-1.0, 0.0], similarity_top_k=1)
        other.query(query)
        pairs.add([node("c", [-1.0, 0.0])])
        assert other.query(query).ids == ["c"]
        other.delete_nodes(["c"])
        assert pairs.query(query).ids == ["b"]

    def test_nothing_is_unpickled(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A pickle in a folder from elsewhere runs whatever it likes."""

        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise AssertionError("unpickled")

        for name in ("load", "loads", "Unpickler"):
            monkeypatch.setattr(pickle, name, refuse)
        with PassageIndex.create(tmp_path / "kb", bag_of_words) as made:
            PassageVectorStore(made).add([TextNode(id_="a", text="cats purr")])
            made.compact()
        assert {file.name.partition("-")[0] for file in (tmp_path / "kb").iterdir()} == {
            "passages.sqlite",
            "vectors",
        }
        (tmp_path / "kb" / "index.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        with PassageIndex.open(tmp_path / "kb", bag_of_words) as opened:
            store = PassageVectorStore(opened)
            assert store.query(VectorStoreQuery(query_str="cats")).ids == ["a"]
            store.persist(str(tmp_path / "storage" / "default__vector_store.json"))
        (tmp_path / "storage" / "default__vector_store.json").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        with pytest.raises(InputError, match="not JSON"):
            PassageVectorStore.from_persist_dir(tmp_path / "storage")
        with pytest.raises(InputError, match="not a file of FAISS"):
            import_faiss_store(tmp_path / "storage", tmp_path / "taken over")
