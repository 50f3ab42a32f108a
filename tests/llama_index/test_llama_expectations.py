"""What engines, routers and agents expect of any LLM, and found missing."""

from __future__ import annotations

import datetime
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import QueryBundle
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RouterQueryEngine, SubQuestionQueryEngine
from llama_index.core.schema import ImageNode, MediaResource, Node, NodeWithScore, TextNode
from llama_index.core.selectors import PydanticSingleSelector
from llama_index.core.tools import QueryEngineTool, ToolMetadata

from llama_index_nbce import (
    NBCELLM,
    NBCEMultiSelector,
    NBCEQuestionGenerator,
    NBCESingleSelector,
    NBCESynthesizer,
    PassageVectorStore,
    RelevanceReranker,
    nbce_chat_engine,
    nbce_query_engine,
)
from nbce_rag.errors import InputError, InputTypeError, NbceWarning

QUESTION = "Who runs the ferry?"
TEXTS = [
    "The ferry to the island is run by Ada and leaves at noon from the old harbour.",
    "The market in the square opens at eight and sells fish, bread and apples.",
]
CHOICES = [ToolMetadata("All about ferries.", "ferries"), ToolMetadata("All about bread.", "bread")]
QUERY = QueryBundle(QUESTION)


def test_options_can_be_set(llm: NBCELLM) -> None:
    llm.max_tokens = 2
    assert llm.max_tokens == 2
    assert llm.metadata.num_output == 2
    assert llm.complete(QUESTION).raw["usage"]["completion_tokens"] == 2
    assert llm.temperature == 0
    llm.stop = ["."]
    assert llm.stop == (".",)
    llm.context_window = 100
    assert llm.metadata.context_window == llm.engine.window == 100
    llm.system_prompt = "Be brief."
    for name, value, message in (
        ("max_tokens", 0, "max_tokens=0"),
        ("max_new_tokens", 3, "here it is max_tokens"),
        ("temprature", 1, "temprature"),
        ("context_window", 10**9, "cannot be"),
        ("model", "other", "make another NBCELLM"),
        ("dtype", "float32", "make another NBCELLM"),
    ):
        with pytest.raises(InputError, match=message):
            setattr(llm, name, value)
    with pytest.raises(AttributeError):
        llm.no_such_thing  # noqa: B018


@pytest.mark.parametrize("mode", ["best", "simple"])
async def test_further_chat_modes(index: Any, llm: NBCELLM, mode: str) -> None:
    engine = nbce_chat_engine(index, llm, chat_mode=mode)
    assert str(engine.chat(QUESTION))
    assert str(await engine.achat(QUESTION))
    assert len(engine.chat_history) == 4
    assert "".join(engine.stream_chat(QUESTION).response_gen)


async def test_selectors_choose_what_is_there(llm: NBCELLM) -> None:
    pytest.importorskip("llguidance")
    single = NBCESingleSelector(llm)
    (chosen,) = single.select(CHOICES, QUERY).selections
    assert chosen.index in (0, 1)
    assert (await single.aselect(CHOICES, QUERY)).selections == [chosen]
    assert NBCESingleSelector(llm).select(CHOICES[:1], QUERY).inds == [0]
    many = NBCEMultiSelector(llm).select(CHOICES * 6, QUERY).inds
    assert many
    assert len(many) == len(set(many))
    assert set(many) <= set(range(12))
    assert len(NBCEMultiSelector(llm, max_outputs=1).select(CHOICES, QUERY).inds) == 1
    with pytest.raises(InputError, match="at least one tool"):
        single.select([], QUERY)


def test_selectors_that_could_choose_nothing_are_refused(llm: NBCELLM) -> None:
    with pytest.raises(InputError, match="max_outputs=0 must be at least 1"):
        NBCEMultiSelector(llm, max_outputs=0)
    with pytest.raises(InputError, match="most=-1 must be at least 1"):
        NBCEQuestionGenerator(llm, most=-1)
    for kind in (NBCESingleSelector, NBCEMultiSelector, NBCEQuestionGenerator):
        with pytest.raises(InputTypeError, match="MockLLM cannot be held to a choice"):
            kind(MockLLM())


def test_the_selectors_of_llama_index_work_too(llm: NBCELLM) -> None:
    pytest.importorskip("llguidance")
    selector = PydanticSingleSelector.from_defaults(llm=llm)  # type: ignore[arg-type]
    llm.max_tokens = 100
    with suppress(InputError):  # a random model's reason may have no end
        assert len(selector.select(CHOICES, QUERY).selections) == 1


async def test_routers_and_sub_questions(index: Any, llm: NBCELLM) -> None:
    pytest.importorskip("llguidance")
    engines = [nbce_query_engine(index, llm), nbce_query_engine(index, llm, similarity_top_k=1)]
    tools = [
        QueryEngineTool.from_defaults(engine, name=choice.name, description=choice.description)
        for engine, choice in zip(engines, CHOICES, strict=True)
    ]
    router = RouterQueryEngine(NBCESingleSelector(llm), tools, llm=llm)
    assert str(router.query(QUESTION))
    assert str(await router.aquery(QUESTION))
    generator = NBCEQuestionGenerator(llm, most=1)
    llm.max_tokens = 250
    llm.bad_words = [" ", "\n"]
    questions = generator.generate(CHOICES, QUERY)
    assert {one.tool_name for one in questions} <= {"ferries", "bread"}
    assert len(await generator.agenerate(CHOICES, QUERY)) == 1
    engine = SubQuestionQueryEngine.from_defaults(
        tools,
        llm=llm,
        question_gen=generator,
        response_synthesizer=NBCESynthesizer(llm),
        use_async=False,
        verbose=False,
    )
    assert engine.query(QUESTION).source_nodes
    with pytest.raises(InputError, match="at least one"):
        generator.generate([], QUERY)


def test_a_reranker_by_relevance(llm: NBCELLM, index: Any) -> None:
    nodes = [
        NodeWithScore(node=TextNode(text=text), score=0.5)
        for text in [*TEXTS, "The museum was built in 1891.", " "]
    ]
    reranker = RelevanceReranker(llm=llm, top_n=2)
    best = reranker.postprocess_nodes(nodes, query_str=QUESTION)
    scores = [node.score or 0.0 for node in best]
    assert len(best) == 2
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    passages = llm.engine.rerank(QUESTION, [node.text for node in nodes[:3]])
    assert [node.text for node in best] == [passage.text for passage in passages[:2]]
    assert nbce_query_engine(index, llm, node_postprocessors=[reranker]).query(QUESTION).source_nodes
    assert reranker.postprocess_nodes([], query_str=QUESTION) == []
    assert reranker.postprocess_nodes(nodes[-1:], query_str=QUESTION) == []  # without text
    with pytest.raises(InputError, match="needs a query"):
        reranker.postprocess_nodes(nodes)
    with pytest.raises(InputTypeError, match="MockLLM"):
        RelevanceReranker(llm=MockLLM())
    with pytest.raises(InputError, match="top_k of RelevanceReranker; it takes llm and top_n"):
        RelevanceReranker(llm=llm, top_k=2)
    assert RelevanceReranker.from_dict({**reranker.to_dict(), "llm": llm}).top_n == 2


@pytest.mark.parametrize("wrong", ["Ada.", TextNode(text="Ada."), {"text": "Ada."}, 3])
def test_contexts_are_a_list(llm: NBCELLM, wrong: Any) -> None:
    with pytest.raises(InputError, match="put it into a list"):
        llm.complete(QUESTION, contexts=wrong)


def test_a_retriever_is_no_list_of_contexts(llm: NBCELLM, index: Any) -> None:
    with pytest.raises(InputError, match="not a VectorIndexRetriever; give what it finds"):
        llm.complete(QUESTION, contexts=index.as_retriever())


@pytest.mark.parametrize(
    ("name", "ours"), [("max_new_tokens", "max_tokens"), ("timeout", "max_seconds"), ("nodes", "contexts")]
)
def test_a_call_names_our_names_too(llm: NBCELLM, name: str, ours: str) -> None:
    with pytest.raises(InputError, match=f"Unknown option {name} .here it is {ours}"):
        llm.complete(QUESTION, **{name: 3})


@pytest.mark.parametrize("choice", ["required", "any", "find"])
def test_a_call_cannot_be_forced_without_tools(llm: NBCELLM, choice: str) -> None:
    with pytest.raises(InputError, match=f"tool_choice='{choice}' forces a call, but there are no tools"):
        llm.chat_with_tools([], QUESTION, tool_choice=choice)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_images_are_not_read_and_it_is_said(llm: NBCELLM, kind: str) -> None:
    node: Any = ImageNode(id_="map", text=TEXTS[0], image="aGk=")
    if kind == "text":
        node = Node(
            id_="map", text_resource=MediaResource(text=TEXTS[0]), image_resource=MediaResource(data=b"")
        )
    with pytest.warns(NbceWarning, match=r"'map' is a \w+ that holds more than text; only its text is read"):
        response: Any = NBCESynthesizer(llm).synthesize(QUESTION, [NodeWithScore(node=node, score=0.5)])
    assert response.metadata["nbce"]["contexts"][0]["text"] == TEXTS[0]


def test_dates_are_metadata(tmp_path: Path) -> None:
    from index_tools import bag_of_words

    from nbce_rag.index import PassageIndex

    store = PassageVectorStore(PassageIndex.create(tmp_path / "index", bag_of_words))
    metadata = {"b": datetime.datetime(2024, 5, 1, 12), "a": 1}
    node = TextNode(text="Notes.", metadata=metadata, embedding=[0.5] * 32)
    store.add([node])
    (again,) = store.get_nodes()
    assert again.metadata == {"b": "2024-05-01T12:00:00", "a": 1}
