"""NBCESynthesizer: one call, templates of every class, what the metadata say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from llama_index.core.base.llms.types import CitableBlock
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.prompts import (
    ChatPromptTemplate,
    PromptTemplate,
    RichPromptTemplate,
    SelectorPromptTemplate,
)
from llama_index.core.prompts.default_prompt_selectors import DEFAULT_TEXT_QA_PROMPT_SEL
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.settings import Settings
from pydantic import BaseModel
from view_tools import an_answer

from llama_index_nbce import (
    NBCELLM,
    NBCESynthesizer,
    capture_reports,
    cited_nodes,
    format_citations,
)
from llama_index_nbce.report import citation_blocks
from nbce_rag import report_schema
from nbce_rag.engine.nbce import NBCE
from nbce_rag.errors import InputError, InputTypeError
from nbce_rag.fusion import Posterior
from nbce_rag.passages import Passage
from nbce_rag.prompts.template import PromptTemplate as Wording

QUESTION = "Who runs the ferry?"
SCORES = [0.8, 0.3, 0.1]


@pytest.fixture
def scored(nodes: list[TextNode]) -> list[NodeWithScore]:
    return [NodeWithScore(node=node, score=score) for node, score in zip(nodes, SCORES, strict=True)]


def report(response: Any) -> dict[str, Any]:
    made: dict[str, Any] = response.metadata["nbce"]
    return made


class _Response:
    """A response with the report of an answer that was made by hand."""

    def __init__(self, made: Any) -> None:
        self.metadata: dict[str, Any] | None = {"nbce": made}
        self.source_nodes: list[NodeWithScore] = []


def test_footnotes_of_several_passages_keep_out_of_code() -> None:
    text = (
        "You can make a client of your own like so, once for all:\n```\nclient = Client()\n```\nThat is all."
    )
    passages = [Passage("client = Client()", id="a"), Passage("One client for all.", id="b")]
    answer = an_answer(text, passages, [(0.4, 0.6)] * 13 + [(1.0, 0.0)] * 4 + [(0.5, 0.5)])
    assert format_citations(_Response(answer.to_dict())) == (
        "You can make a client of your own like so, once for all: [1][2]\n```\nclient = Client()\n```\n[2]\n"
        "That is all.\n\n[1] b\n[2] a"
    )
    blocks = citation_blocks(answer.to_dict(), answer.passages)
    assert [block.source for block in blocks] == ["b", "a", "a"]
    assert [block.additional_location_info["response_end"] for block in blocks[:2]] == [56, 56]
    assert [block.additional_location_info["weight_ppm"] for block in blocks[:2]] == [600_000, 400_000]


class TestOneCall:
    def test_one_call_with_a_row_for_each_node(
        self, llm: NBCELLM, scored: list[NodeWithScore], events: Any
    ) -> None:
        response = NBCESynthesizer(llm).synthesize(QUESTION, scored)
        assert events.llm_calls == 1
        assert report(response)["rows"] == 4
        start = next(e for e in events.seen if e.class_name() == "LLMChatStartEvent")
        blocks = [b for m in start.messages for b in m.blocks if isinstance(b, CitableBlock)]
        assert [b.source for b in blocks] == ["ferry", "market", "museum"]
        assert [n for n in events.names if "InProgress" not in n] == [
            "SynthesizeStartEvent",
            "GetResponseStartEvent",
            "LLMChatStartEvent",
            "LLMChatEndEvent",
            "GetResponseEndEvent",
            "SynthesizeEndEvent",
        ]

    def test_a_question_with_parts_is_answered_part_by_part(
        self, llm: NBCELLM, scored: list[NodeWithScore]
    ) -> None:
        response = NBCESynthesizer(llm).synthesize("Who runs the ferry?\nWhere is the museum?", scored)
        first, second = str(response).split("\n2. ")
        assert first.startswith("1. ")
        assert second is not None
        assert report(response)["rows"] == 8
        assert report(response)["answer"] == str(response)

    def test_streams_start_the_model_before_synthesis_ends(
        self, llm: NBCELLM, scored: list[NodeWithScore], events: Any
    ) -> None:
        response = NBCESynthesizer(llm, streaming=True).synthesize(QUESTION, scored)
        assert events.names.index("LLMChatStartEvent") < events.names.index("SynthesizeEndEvent")
        list(response.response_gen)
        assert events.count("LLMChatEndEvent") == events.llm_calls == 1

    def test_many_passages_through_a_small_window_are_one_call(
        self, make_engine: Callable[..., NBCE], events: Any
    ) -> None:
        llm = NBCELLM(engine=make_engine(), context_window=700)
        many = [
            NodeWithScore(node=TextNode(id_=str(n), text=f"Passage {n}. " + "The ferry leaves. " * 30))
            for n in range(8)
        ]
        response = NBCESynthesizer(llm).synthesize(QUESTION, many)
        assert (events.llm_calls, report(response)["rows"]) == (1, 9)
        assert all(c["index"] == n for n, c in enumerate(report(response)["contexts"]))

    def test_a_node_that_does_not_fit_is_split_and_recorded(self, make_engine: Callable[..., NBCE]) -> None:
        llm = NBCELLM(engine=make_engine(), context_window=400)
        long = NodeWithScore(node=TextNode(id_="long", text="The market opens at eight. " * 60))
        with pytest.warns(UserWarning, match="overlapping windows"):
            response = NBCESynthesizer(llm).synthesize(QUESTION, [long])
        assert report(response)["rows"] > 2
        assert len(report(response)["contexts"]) == 1
        assert any("'long'" in warning for warning in report(response)["warnings"])

    @pytest.mark.parametrize("chat", [True, False])
    def test_the_default_wording_gives_the_core_s_tokens(
        self, make_engine: Callable[..., NBCE], scored: list[NodeWithScore], chat: bool
    ) -> None:
        # The chat message below holds more words than the question, and so has another likelihood.
        engine = make_engine(chat=chat, fusion=Posterior(alpha=0.0))
        passages = [Passage(n.node.get_content(), id=n.node.node_id, score=n.score) for n in scored]
        core = engine.answer(QUESTION, passages)
        response = NBCESynthesizer(NBCELLM(engine=engine)).synthesize(QUESTION, scored)
        assert response.response == core.text
        assert report(response)["usage"]["row_tokens"] == list(core.usage.row_tokens)
        assert report(response)["grounding"] == pytest.approx(core.grounding, abs=1e-4)
        assert report(response)["finish_reason"] == core.finish_reason
        sugar = NBCELLM(engine=engine).chat(
            [ChatMessage(role="user", content=f"Question: {QUESTION}\nAnswer:")], contexts=scored
        )
        if not chat:  # the plain wording is what contexts before a question are
            assert sugar.message.content.split("\n")[0] == core.text

    def test_a_wording_with_a_system_message(
        self, make_engine: Callable[..., NBCE], scored: list[Any]
    ) -> None:
        wording = Wording("{Read}\n", "{heading}{text}\n\n", "Q: {question}", chat=True, system="Be {brief}.")
        engine = make_engine(prompt=wording)
        passages = [Passage(n.node.get_content(), id=n.node.node_id, score=n.score) for n in scored]
        response = NBCESynthesizer(NBCELLM(engine=engine)).synthesize(QUESTION, scored)
        core = engine.answer(QUESTION, passages)
        assert response.response == core.text
        assert report(response)["usage"]["row_tokens"] == list(core.usage.row_tokens)


TEMPLATES = {
    "prompt": PromptTemplate("Facts {{x}}:\n{context_str}\nAsk: {query_str}"),
    "chat": ChatPromptTemplate(
        [
            ChatMessage(role="system", content="Facts {{x}}:\n{context_str}"),
            ChatMessage(role="user", content="Ask: {query_str}"),
        ]
    ),
    "rich": RichPromptTemplate(
        "{% chat role='system' %}Facts { x }:\n{{ context_str }}{% endchat %}"
        "{% chat role='user' %}Ask: {{ query_str }}{% endchat %}"
    ),
    "selector": SelectorPromptTemplate(
        default_template=PromptTemplate("Default {context_str} Ask: {query_str}"),
        conditionals=[
            (lambda llm: llm.metadata.is_chat_model, PromptTemplate("Facts\n{context_str}\nAsk: {query_str}"))
        ],
    ),
    "stock": DEFAULT_TEXT_QA_PROMPT_SEL,
    "mapped": PromptTemplate(
        "Facts {my_context} Ask: {my_query}",
        template_var_mappings={"context_str": "my_context", "query_str": "my_query"},
    ),
    "partial": PromptTemplate("{tone} facts {context_str} Ask: {query_str}").partial_format(tone="Dry"),
}


class TestTemplates:
    @pytest.mark.parametrize("name", list(TEMPLATES))
    def test_every_class_of_template_gives_the_right_rows(
        self, llm: NBCELLM, scored: list[NodeWithScore], events: Any, name: str
    ) -> None:
        braces = NodeWithScore(node=TextNode(id_="braces", text='Braces {context_str} {"a": 1} stay.'))
        response = NBCESynthesizer(llm, text_qa_template=TEMPLATES[name]).synthesize(
            QUESTION, [*scored, braces]
        )
        assert report(response)["rows"] == 5
        start = next(e for e in events.seen if e.class_name() == "LLMChatStartEvent")
        found = [b.source for m in start.messages for b in m.blocks if isinstance(b, CitableBlock)]
        assert found == ["ferry", "market", "museum", "braces"]
        assert QUESTION in (start.messages[-1].content or "")
        assert "contexts-" not in "".join(m.content or "" for m in start.messages)

    def test_update_prompts_through_a_query_engine(self, llm: NBCELLM, index: Any, events: Any) -> None:
        from llama_index_nbce import nbce_query_engine

        engine = nbce_query_engine(index, llm)
        key = "response_synthesizer:text_qa_template"
        assert key in engine.get_prompts()
        engine.update_prompts({key: PromptTemplate("Zebra {context_str} {query_str}")})
        engine.query(QUESTION)
        start = next(e for e in events.seen if e.class_name() == "LLMChatStartEvent")
        assert (start.messages[0].content or "").startswith("Zebra")

    @pytest.mark.parametrize(
        ("template", "reason"),
        [
            (PromptTemplate("Only {query_str}"), "has no {context_str}"),
            (PromptTemplate("{context_str} {context_str} {query_str}"), "more than once"),
            (
                PromptTemplate(
                    "{context_str} {query_str}",
                    function_mappings={"context_str": lambda **kw: kw["context_str"].upper()},
                ),
                "changes {context_str}",
            ),
        ],
    )
    def test_templates_that_lose_the_contexts_are_refused(
        self, llm: NBCELLM, scored: list[NodeWithScore], template: Any, reason: str
    ) -> None:
        with pytest.raises(InputError, match=reason.replace("{", r"\{")):
            NBCESynthesizer(llm, text_qa_template=template).synthesize(QUESTION, scored)

    def test_system_prompt_of_the_llm_is_in_every_row(
        self, make_engine: Callable[..., NBCE], scored: list[NodeWithScore], events: Any
    ) -> None:
        llm = NBCELLM(engine=make_engine(), system_prompt="Speak plainly.")
        NBCESynthesizer(llm).synthesize(QUESTION, scored)
        start = next(e for e in events.seen if e.class_name() == "LLMChatStartEvent")
        assert start.messages[0].content == "Speak plainly."


class TestScoresAndOptions:
    def test_scores_take_part_in_fusion_unless_they_cannot(self, llm: NBCELLM, nodes: list[TextNode]) -> None:
        def scores_of(values: list[float | None], **options: Any) -> list[float | None]:
            given = [NodeWithScore(node=n, score=s) for n, s in zip(nodes, values, strict=True)]
            response = NBCESynthesizer(llm, **options).synthesize(QUESTION, given)
            return [c["score"] for c in report(response)["contexts"]]

        assert scores_of([0.8, 0.3, -0.1]) == pytest.approx([0.8, 0.3, -0.1])
        assert scores_of([12.5, 3.0, 0.1]) == [None] * 3  # BM25
        assert scores_of([0.8, None, 0.1]) == [0.8, None, 0.1]
        assert scores_of([0.2, 0.9, 1.4]) == [None] * 3  # distances
        assert scores_of([0.2, 0.6, 0.9]) == [None] * 3  # distances too
        assert scores_of([0.2, 0.6, 0.9], score_scale="cosine") == pytest.approx([0.2, 0.6, 0.9])
        assert scores_of([0.8, 0.3, -0.1], use_scores=False) == [None] * 3
        heavy = NBCESynthesizer(llm).synthesize(
            QUESTION, [NodeWithScore(node=n, score=s) for n, s in zip(nodes, [-1.0, -1.0, 1.0], strict=True)]
        )
        assert report(heavy)["contexts"][2]["weight"] > 0.9
        with pytest.raises(InputError, match="score_scale='l2'"):
            NBCESynthesizer(llm, score_scale="l2")

    def test_distances_count_by_their_order_and_say_so(self, llm: NBCELLM, nodes: list[TextNode]) -> None:
        def weights(values: list[float | None], **options: Any) -> list[float]:
            given = [NodeWithScore(node=n, score=s) for n, s in zip(nodes, values, strict=True)]
            found = report(NBCESynthesizer(llm, **options).synthesize(QUESTION, given))
            assert any("score_scale" in w for w in found["warnings"]) == (values[0] is not None)
            return [context["weight"] for context in found["contexts"]]

        assert weights([0.1, 0.7, 1.2]) == pytest.approx(weights([None, None, None]))

    def test_options_go_to_the_model(self, llm: NBCELLM, scored: list[NodeWithScore]) -> None:
        response = NBCESynthesizer(llm, max_tokens=3, fusion="max").synthesize(QUESTION, scored)
        assert report(response)["usage"]["generated_tokens"] <= 3
        assert report(response)["fusion"] == "max"
        with pytest.raises(InputError, match="temprature"):
            NBCESynthesizer(llm, temprature=1)

    def test_answer_without_context(self, llm: NBCELLM, events: Any) -> None:
        synthesizer = NBCESynthesizer(llm, answer_without_context=True)
        response = synthesizer.synthesize(QUESTION, [])
        assert response.response not in ("", "Empty Response")
        assert response.source_nodes == []
        assert (report(response)["rows"], events.llm_calls) == (1, 1)
        assert asyncio.run(synthesizer.asynthesize(QUESTION, [])).response == response.response

    def test_an_llm_that_cannot_hold_contexts_is_refused(self, llm: NBCELLM) -> None:
        with pytest.raises(InputTypeError, match="MockLLM cannot hold contexts"):
            NBCESynthesizer(MockLLM())
        with pytest.raises(TypeError, match="MockLLM"):
            NBCESynthesizer(MockLLM().as_structured_llm(Fact))
        Settings.llm = llm
        assert NBCESynthesizer()._llm is llm

    def test_called_with_texts_alone(self, llm: NBCELLM) -> None:
        synthesizer = NBCESynthesizer(llm)
        with capture_reports() as reports:
            text = synthesizer.get_response(QUESTION, ["The ferry is run by Ada.", "Fish."])
        assert text == reports[0]["answer"]
        assert reports[0]["rows"] == 3


class Fact(BaseModel):
    """A fact."""

    sure: bool


class TestMetadata:
    def test_it_is_plain_json_and_says_where_the_answer_comes_from(
        self, llm: NBCELLM, scored: list[NodeWithScore]
    ) -> None:
        response = NBCESynthesizer(llm).synthesize(QUESTION, scored)
        made = report(response)
        assert json.loads(json.dumps(made)) == made
        jsonschema.Draft202012Validator(report_schema()).validate(made)
        assert (made["question"], made["answer"]) == (QUESTION, response.response)
        assert [c["id"] for c in made["contexts"]] == ["ferry", "market", "museum"]
        assert [c["metadata"]["ref_doc_id"] for c in made["contexts"]] == ["sea.txt", "town.txt", "town.txt"]
        assert sum(c["weight"] for c in made["contexts"]) == pytest.approx(1, abs=1e-4)
        assert sum(c["tokens_won"] for c in made["contexts"]) >= 1
        assert made["citations"]
        for citation in made["citations"]:
            assert 0 <= citation["start"] < citation["end"] <= len(response.response)
            assert made["contexts"][citation["context_index"]]["id"] == citation["passage_id"]
        assert made["cited_ids"] == list(dict.fromkeys(c["passage_id"] for c in made["citations"]))

    def test_nodes_are_left_as_they_are(self, llm: NBCELLM, scored: list[NodeWithScore]) -> None:
        before = [node.model_dump_json() for node in scored]
        NBCESynthesizer(llm).synthesize(QUESTION, scored)
        assert [node.model_dump_json() for node in scored] == before

    def test_it_is_empty_until_a_stream_ends(self, llm: NBCELLM, scored: list[NodeWithScore]) -> None:
        whole = report(NBCESynthesizer(llm).synthesize(QUESTION, scored))
        response = NBCESynthesizer(llm, streaming=True).synthesize(QUESTION, scored)
        assert report(response) == {}
        with pytest.raises(InputError, match="not complete"):
            cited_nodes(response)
        list(response.response_gen)
        assert {**report(response), "timings": 0, "usage": 0} == {**whole, "timings": 0, "usage": 0}
        assert "[1]" in format_citations(response)

        async def run() -> Any:
            response = await NBCESynthesizer(llm, streaming=True).asynthesize(QUESTION, scored)
            before = dict(report(response))
            [_ async for _ in response.async_response_gen()]
            return before, report(response)

        before, after = asyncio.run(run())
        assert before == {}
        assert after["citations"] == whole["citations"]

    def test_calls_at_once_keep_theirs_apart(self, llm: NBCELLM, scored: list[NodeWithScore]) -> None:
        synthesizer = NBCESynthesizer(llm)

        async def run() -> list[Any]:
            return await asyncio.gather(*[synthesizer.asynthesize(QUESTION, [n]) for n in scored])

        for node, response in zip(scored, asyncio.run(run()), strict=True):
            assert [c["id"] for c in report(response)["contexts"]] == [node.node.node_id]
            assert response.response == report(response)["answer"]

    def test_cited_nodes_and_footnotes(self, llm: NBCELLM, scored: list[NodeWithScore]) -> None:
        response = NBCESynthesizer(llm).synthesize(QUESTION, scored)
        assert [n.node.node_id for n in cited_nodes(response)] == report(response)["cited_ids"]
        text = format_citations(response)
        for number, node in enumerate(cited_nodes(response), 1):
            assert f"[{number}] {node.node.node_id}" in text
        plain = text.partition("\n\n[1]")[0].partition("\nNot in the passages")[0]
        for number in range(1, 4):
            plain = plain.replace(f" [{number}]", "")
        assert plain == response.response

    def test_structured_answers_keep_it(self, make_engine: Callable[..., NBCE], scored: list[Any]) -> None:
        pytest.importorskip("llguidance")
        llm = NBCELLM(engine=make_engine(), max_tokens=40)
        for synthesizer in (
            NBCESynthesizer(llm, output_cls=Fact),
            NBCESynthesizer(llm.as_structured_llm(Fact)),
            NBCESynthesizer(llm, output_cls=Fact, streaming=True),
        ):
            response = synthesizer.synthesize(QUESTION, scored)
            assert isinstance(response.response, Fact)
            assert report(response)["rows"] == 4
            assert [c["id"] for c in report(response)["contexts"]] == ["ferry", "market", "museum"]
        assert isinstance(asyncio.run(synthesizer.asynthesize(QUESTION, scored)).response, Fact)
