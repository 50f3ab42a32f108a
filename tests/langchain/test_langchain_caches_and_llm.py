"""LangChain's caches, and NBCELLM, whose cache key sees nothing but prompt and fields."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.globals import set_llm_cache
from langchain_core.load import dumps, loads
from langchain_core.messages import HumanMessage
from langchain_core.prompts import PromptTemplate

from langchain_nbce import NBCELLM, ChatNBCE, format_passages
from nbce_rag import NBCE
from nbce_rag.errors import InputError
from nbce_rag.noncharacters import PASSAGES
from nbce_rag.prompts.binding import bind

A, B = ["The ferry is run by Ada."], ["The ferry is run by Bob.", "Tea is grown here."]
Chat = Callable[..., ChatNBCE]


@pytest.fixture
def llm(make_nbce: Any) -> NBCELLM:
    return NBCELLM(engine=make_nbce("llama"), max_tokens=6)


class WrittenCache(BaseCache):
    """Keeps JSON, as the caches that outlive a process do."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], str] = {}

    def lookup(self, prompt: str, llm_string: str) -> Any:
        row = self.rows.get((prompt, llm_string))
        return None if row is None else loads(row, allowed_objects="core")

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        self.rows[prompt, llm_string] = dumps(list(return_val))

    def clear(self, **kwargs: Any) -> None:
        self.rows.clear()


@pytest.fixture(params=[InMemoryCache, WrittenCache])
def cache(request: pytest.FixtureRequest) -> Iterator[BaseCache]:
    made: BaseCache = request.param()
    set_llm_cache(made)
    yield made
    set_llm_cache(None)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sizes: list[int] = []
    stream_batch = NBCE.stream_batch

    def counted(self: NBCE, requests: Any) -> Any:
        sizes.append(len(requests))
        return stream_batch(self, requests)

    monkeypatch.setattr(NBCE, "stream_batch", counted)
    return sizes


async def test_caches_tell_calls_apart(
    chat: Chat, llm: NBCELLM, cache: BaseCache, computed: list[int]
) -> None:
    for model in (chat(max_tokens=6), llm):
        calls: list[dict[str, Any]] = [
            {"contexts": A},
            {"contexts": B},
            {},
            {"contexts": A, "max_tokens": 2},
            {"contexts": A, "fusion": "mean"},
            {"contexts": A, "stop": ["e"]},
            {"contexts": [(A[0], 0.9), (B[1], 0.1)]},
            {"contexts": [(A[0], 0.1), (B[1], 0.9)]},
        ]
        set_llm_cache(None)
        plain = [str(getattr(r, "text", r)) for r in [model.invoke("Who?", **c) for c in calls]]
        set_llm_cache(cache)
        for _ in range(2):
            computed.clear()
            assert [str(getattr(r, "text", r)) for r in [model.invoke("Who?", **c) for c in calls]] == plain
        assert computed == []
        assert [
            str(getattr(r, "text", r)) for r in [await model.ainvoke("Who?", **c) for c in calls]
        ] == plain
        assert computed == []
        model.invoke("What?", contexts=A)
        computed.clear()
        batch = model.batch(["Who?", "What?", "New?"], contexts=A)
        assert str(getattr(batch[0], "text", batch[0])) == plain[0]
        assert computed == [1]  # two of them were known


def test_cached_messages_keep_their_evidence(chat: Chat, cache: BaseCache) -> None:
    model = chat(citation_threshold=0.01)
    first, second = (model.invoke("Who?", contexts=A) for _ in range(2))
    assert second.response_metadata == first.response_metadata
    assert second.content_blocks == first.content_blocks


async def test_completion_by_every_transport(llm: NBCELLM) -> None:
    documents = [Document(text, id=str(i), metadata={"relevance_score": 0.5}) for i, text in enumerate(B)]
    template = "Read:\n{context}\n\nWho?\nA:"
    expected = llm.invoke(template.format(context=PASSAGES), contexts=documents)
    assert expected != llm.invoke(template.format(context=""))
    marked = template.format(context=format_passages(documents))
    assert llm.invoke(marked) == expected
    assert (PromptTemplate.from_template(template) | llm).invoke(
        {"context": format_passages(documents)}
    ) == expected
    assert llm.invoke(template.format(context="\n\n".join(B)), contexts=documents) == expected
    assert await llm.ainvoke(marked) == expected
    assert llm.batch([marked, "Who?"]) == [expected, llm.invoke("Who?")]
    assert await llm.abatch([marked, "Who?"]) == [expected, llm.invoke("Who?")]
    for given, kwargs in ((marked, {}), (template.format(context=PASSAGES), {"contexts": documents})):
        pieces = list(llm.stream(given, **kwargs))
        assert "".join(pieces) == expected
        assert len(pieces) > 1
        assert "".join([piece async for piece in llm.astream(given, **kwargs)]) == expected
    blocks = [
        {"type": "text-plain", "text": d.page_content, "extras": {"id": d.id, **d.metadata}}
        for d in documents
    ]
    by_blocks = llm.generate_prompt([llm._convert_input([HumanMessage(["Q ", *blocks, " Who?"])])])
    assert len(by_blocks.generations[0][0].generation_info["nbce"]["contexts"]) == 2


def test_a_batch_of_prompts_is_one_decoding_batch(llm: NBCELLM, computed: list[int]) -> None:
    llm.batch(["Who?", "When?", "Where?"], contexts=A)
    assert computed == [3]


class Recorder(BaseCallbackHandler):
    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.results: list[Any] = []

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.tokens.append(token)

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.results.append(response)


def test_completion_tells_what_it_knows(llm: NBCELLM) -> None:
    recorder = Recorder()
    text = "".join(llm.stream("Who?", contexts=A, config={"callbacks": [recorder]}))
    assert "".join(recorder.tokens) == text
    streamed = recorder.results[0].generations[0][0].generation_info
    result = llm.generate(["Who?"], contexts=A)
    info = result.generations[0][0].generation_info
    assert streamed["nbce"]["contexts"] == info["nbce"]["contexts"]
    assert info["usage_metadata"]["input_tokens"] == result.llm_output["token_usage"]["input_tokens"]
    assert result.llm_output["model_name"] == llm.engine.model.name
    assert llm.get_num_tokens("Who runs the ferry?") > 3


def test_completion_completes_the_prompt_as_it_stands(llm: NBCELLM) -> None:
    engine = llm.engine
    _, (request,), _ = llm._prepare(["Once upon a time"], None)
    encoder = bind(request.prompt, engine.prompt, engine.model.tokenizer)
    ids = [*encoder.prefix, *encoder.suffix(request.question).ids]
    assert ids == engine.model.tokenizer.native("Once upon a time")["input_ids"]
    _, (request,), _ = llm._prepare([f"Read: {format_passages(A)}"], None)
    encoder = bind(request.prompt, engine.prompt, engine.model.tokenizer)
    assert encoder.suffix(request.question).ids  # something to go on from
    assert llm.invoke(f"Read: {format_passages(A)}")


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"temprature": 1}, "temprature"),
        ({"top_p": 2}, "top_p=2"),
        ({"contexts": "x"}, "list"),
        ({"stop": [""]}, "stop="),
    ],
)
def test_completion_refuses_what_it_does_not_know(llm: NBCELLM, kwargs: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        llm.invoke("Who?", **kwargs)
    with pytest.raises(InputError, match=named):
        list(llm.stream("Who?", **kwargs))


async def test_sixteen_completions_at_once(llm: NBCELLM) -> None:
    prompts = [f"Question {i}" for i in range(16)]
    alone = [llm.invoke(prompt, contexts=A) for prompt in prompts]
    assert await asyncio.gather(*(llm.ainvoke(prompt, contexts=A) for prompt in prompts)) == alone


def test_completion_with_a_key(make_nbce: Any) -> None:
    llm = NBCELLM(engine=make_nbce("llama"), max_tokens=4, mark_key="secret")
    result = llm.generate([f"Who? {format_passages(B)}"], contexts=A)
    assert len(result.generations[0][0].generation_info["nbce"]["contexts"]) == 1
