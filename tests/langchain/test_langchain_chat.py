"""ChatNBCE beyond the standard suite: options, batches, streams, concurrency, structure, identity."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel, ValidationError

from langchain_nbce import NBCELLM, ChatNBCE, format_passages
from langchain_nbce.messages import template_messages
from nbce_rag import NBCE, report_schema
from nbce_rag.errors import InputError
from nbce_rag.fusion import Mean
from nbce_rag.models.transformers.tokenizer import TransformersTokenizer
from nbce_rag.options import Options
from nbce_rag.prompts.binding import bind
from nbce_rag.prompts.encoder import PromptEncoder
from nbce_rag.prompts.prompt import Prompt

PASSAGES = ["The ferry is run by Ada.", "The market opens at eight.", "Tea is grown here."]
Chat = Callable[..., ChatNBCE]

CHANGES: dict[str, Any] = {
    "fusion": "mean",
    "max_tokens": 3,
    "max_seconds": 600.0,
    "stop": ["e"],
    "temperature": 1.5,
    "top_k": 3,
    "top_p": 0.5,
    "min_p": 0.5,
    "repetition_penalty": 9.0,
    "no_repeat_ngram_size": 1,
    "bad_words": ["a"],
    "style": "short",
    "seed": 7,
    "json_schema": {"type": "integer", "minimum": 1, "maximum": 9},
    "regex": "yes|no",
    "chat_template_kwargs": {"enable_thinking": False},
    "thinking": False,
    "max_thought_tokens": 3,
    "passages_per_row": 2,
    "joint_row": True,
    "order_labels": True,
    "parts": False,
    "abstain_below": 100.0,
    "abstention": "Nothing.",
    "answer_without_context": True,
    "refusal_threshold": 0.1,
    "relevance": True,
    "entropies": True,
    "top_logprobs": 2,
    "prompt_lookup_num_tokens": 2,
    "sleep": False,
    "drop_rows_after": 3,
    "conflicts": True,
    "citation_threshold": 0.2,
}


@pytest.mark.parametrize("kind", [ChatNBCE, NBCELLM])
def test_every_option_is_a_field_and_changes_the_cache_key(make_nbce: Any, kind: Any) -> None:
    names = {field.name for field in dataclasses.fields(Options)}
    assert names <= set(kind.model_fields)
    assert names <= set(CHANGES), "a new option needs a line here"
    engine = make_nbce("llama", chat=True)
    plain = kind(engine=engine)
    assert plain._identifying_params == kind(engine=engine)._identifying_params
    for name in names:
        changed = kind(engine=engine, **{name: CHANGES[name]})
        assert changed._identifying_params != plain._identifying_params, name
        assert getattr(changed.options(engine, None, {}), name) == getattr(
            Options(**{name: CHANGES[name]}), name
        )
    for other in (
        kind(engine=make_nbce("qwen3", chat=True)),
        kind(engine=make_nbce("llama", chat=True, temperature=1.0)),
        kind(engine=make_nbce("llama")),
        kind(engine=engine, mark_key="k"),
        kind(engine=engine, history_contexts="keep_as_text"),
        kind(engine=engine, score_key="s"),
    ):
        assert other._identifying_params != plain._identifying_params


def test_a_changed_file_changes_the_cache_key(tiny_folder: Any, tmp_path: Any) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_folder("llama"), folder)
    before = ChatNBCE(model=str(folder))._identifying_params
    assert ChatNBCE(model=str(folder))._identifying_params == before
    with (folder / "config.json").open("a") as stream:
        stream.write("\n")
    assert ChatNBCE(model=str(folder))._identifying_params != before


def test_options_per_call_outrank_fields(chat: Chat) -> None:
    llm = chat(max_tokens=6)
    text = llm.invoke("Who?", contexts=PASSAGES).text
    short = llm.invoke("Who?", contexts=PASSAGES, max_tokens=2)
    assert text.startswith(short.text)
    assert short.usage_metadata["output_tokens"] == 2
    assert llm.bind(max_new_tokens=2).invoke("Who?", contexts=PASSAGES).text == short.text
    assert llm.invoke("Who?", contexts=PASSAGES, fusion=Mean()).response_metadata["nbce"]["fusion"] == "mean"
    assert llm.invoke("Who?", contexts=PASSAGES, regex="yes|no").text in ("yes", "no")
    constrained = chat(regex="yes|no")
    assert constrained.invoke("Who?", json_schema={"type": "boolean"}).text in ("true", "false")
    letter = next(c for c in text[1:] if c.isascii() and c.isprintable())
    stopped = llm.invoke("Who?", contexts=PASSAGES, stop=[letter])
    assert stopped.text == text[: text.index(letter)].rstrip() or text.startswith(stopped.text)
    assert letter not in stopped.text
    assert stopped.response_metadata["finish_reason"] == "stop"
    assert chat(stop=[letter], max_tokens=6).invoke("Who?", contexts=PASSAGES).text == stopped.text
    seeds = [llm.invoke("Who?", temperature=2.0, seed=seed).text for seed in (1, 1, 2)]
    assert seeds[0] == seeds[1] != seeds[2]


def test_fields_are_checked(make_nbce: Any) -> None:
    for wrong in ({"temprature": 1}, {"engine": "no engine"}, {"max_tokens": "many"}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            ChatNBCE(**wrong)
    with pytest.raises(ValidationError, match="top_p=3"):
        ChatNBCE(engine=make_nbce(chat=True), top_p=3)


def test_metadata_are_plain_and_once(chat: Chat) -> None:
    import json

    llm = chat()
    llm.invoke("Who?", contexts=PASSAGES)
    chunks = list(llm.stream("Who runs it?", contexts=PASSAGES))
    last = [c for c in chunks if c.response_metadata]
    assert last == [chunks[-1]]
    assert chunks[-1].chunk_position == "last"
    assert len([c for c in chunks if c.text]) > 1
    whole: Any = sum(chunks[1:], chunks[0])
    message = llm.invoke("Who runs it?", contexts=PASSAGES)
    assert whole.text == message.text
    for one in (whole, message):
        metadata = json.loads(json.dumps(one.response_metadata, allow_nan=False))
        assert metadata == one.response_metadata
        nbce = metadata["nbce"]
        jsonschema.Draft202012Validator(report_schema()).validate(nbce)
        assert (nbce["question"], nbce["answer"]) == ("Who runs it?", one.text)
        assert [c["index"] for c in nbce["contexts"]] == [0, 1, 2]
        assert sum(c["weight"] for c in nbce["contexts"]) == pytest.approx(1, abs=1e-4)
        assert sum(c["tokens_won"] for c in nbce["contexts"]) <= one.usage_metadata["output_tokens"]
        assert len(nbce["usage"]["row_tokens"]) == 5  # none, three passages, and these together
        assert nbce["grounding"] is not None
        assert nbce["timings"]["total"] > 0
        assert metadata["finish_reason"] in ("stop", "length")
        usage = one.usage_metadata
        assert usage["input_tokens"] == sum(nbce["usage"]["row_tokens"])
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert 0 < usage["input_token_details"]["cache_read"] < usage["input_tokens"]


class Recorder(BaseCallbackHandler):
    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.ended = 0
        self.failed = 0

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.tokens.append(token)

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.ended += 1

    def on_llm_error(self, error: Any, **kwargs: Any) -> None:
        self.failed += 1


def encoder_of(call: Any) -> PromptEncoder:
    """The wording of a call, bound to its model's tokenizer."""
    return bind(call.request.prompt, call.engine.prompt, call.engine.model.tokenizer)


def count_together(llm: ChatNBCE, monkeypatch: pytest.MonkeyPatch, calls: int) -> list[int]:
    """How many answers each step is for; the first one waits until so many calls have come."""
    from nbce_rag.engine.batch import Batch

    sizes: list[int] = []
    step = Batch.step

    def counted(self: Any) -> None:
        started = time.monotonic()
        while not sizes and time.monotonic() < started + 30:
            load = llm.nbce().scheduler.load
            if load.running + load.waiting >= calls:
                break
            time.sleep(0.001)
        sizes.append(len(self))
        step(self)

    monkeypatch.setattr(Batch, "step", counted)
    return sizes


async def test_a_batch_is_one_decoding_batch(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = chat()
    questions = ["Who runs the ferry?", "When?", "Where is tea grown?", "Why?"]
    alone = [llm.invoke(question, contexts=PASSAGES).text for question in questions]
    recorders = [Recorder() for _ in questions]
    configs: Any = [{"callbacks": [recorder]} for recorder in recorders]
    with monkeypatch.context() as patch:
        sizes = count_together(llm, patch, 4)
        assert [m.text for m in llm.batch(questions, configs, contexts=PASSAGES)] == alone
        assert max(sizes) == 4
        sizes.clear()
        assert [m.text for m in await llm.abatch(questions, contexts=PASSAGES)] == alone
        assert max(sizes) == 4
    assert [r.ended for r in recorders] == [1] * 4
    with monkeypatch.context() as patch:
        sizes = count_together(llm, patch, 2)
        assert [m.text for m in llm.batch(questions, {"max_concurrency": 2}, contexts=PASSAGES)] == alone
        assert max(sizes) == 2
    assert llm.batch([]) == []


async def test_concurrent_calls_meet_in_one_decoding_batch(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, other = (chat(max_tokens=64) for _ in range(2))  # so long that the last one meets the first
    questions = ["Who runs the ferry?", "When?", "Where is tea grown?", "Why?"]
    alone = [llm.invoke(question, contexts=PASSAGES).text for question in questions]
    calls = [(llm, questions[0]), (llm, questions[1]), (other, questions[2]), (other, questions[3])]
    sizes = count_together(llm, monkeypatch, 4)
    answers = await asyncio.gather(*(model.ainvoke(q, contexts=PASSAGES) for model, q in calls))
    assert [answer.text for answer in answers] == alone
    assert max(sizes) == 4
    sizes.clear()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda call: call[0].invoke(call[1], contexts=PASSAGES), calls))
    assert [answer.text for answer in answers] == alone
    assert max(sizes) == 4


async def test_an_error_in_a_batch_meets_only_its_own_question(chat: Chat) -> None:
    llm = chat()
    questions: list[Any] = ["Who?", "ferry " * 600, [HumanMessage([{"type": "image", "url": "u"}])], "When?"]
    for results in (
        llm.batch(questions, return_exceptions=True),
        await llm.abatch(questions, return_exceptions=True),
    ):
        assert [results[0].text, results[3].text] == [llm.invoke("Who?").text, llm.invoke("When?").text]
        assert isinstance(results[1], InputError)
        assert isinstance(results[2], InputError)
    with pytest.raises(InputError, match="window"):
        llm.batch(questions[:2])
    with pytest.raises(InputError, match="window"):
        await llm.abatch(questions[:2])


async def test_sixteen_calls_at_once(chat: Chat) -> None:
    llm = chat(max_tokens=5)
    calls = [(f"Question {i}?", PASSAGES[: i % 4]) for i in range(16)]
    alone = [llm.invoke(question, contexts=passages).text for question, passages in calls]
    assert len(set(alone)) > 8
    together = await asyncio.gather(*(llm.ainvoke(q, contexts=p) for q, p in calls))
    assert [message.text for message in together] == alone
    for (_, passages), message in zip(calls, together, strict=True):
        assert len(message.response_metadata["nbce"]["contexts"]) == len(passages)


async def test_the_event_loop_stays_free(chat: Chat) -> None:
    llm = chat(max_tokens=40)
    llm.invoke("Warm?")
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticker = asyncio.ensure_future(tick())
    seen = [ticks async for _ in llm.astream("Who?", contexts=PASSAGES)]
    await llm.ainvoke("Who?", contexts=PASSAGES)
    ticker.cancel()
    assert seen[-1] > 0
    assert ticks > seen[-1]


def count_steps(llm: ChatNBCE, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    from nbce_rag.decoding.decoder import LockstepDecoder

    steps: list[int] = []
    step = LockstepDecoder.step

    def counted(self: Any) -> Any:
        steps.append(threading.get_ident())
        return step(self)

    monkeypatch.setattr(LockstepDecoder, "step", counted)
    return steps


async def test_a_broken_off_stream_stops_computing_and_holds_no_lock(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = chat(max_tokens=60)
    expected = llm.invoke("Who?", contexts=PASSAGES).text
    steps = count_steps(llm, monkeypatch)
    for _ in llm.stream("Who?", contexts=PASSAGES):
        break
    async for _ in llm.astream("Who?", contexts=PASSAGES):
        break
    stream = (RunnableLambda(lambda x: x) | llm).astream("Who?")
    await stream.__anext__()
    await stream.aclose()
    task = asyncio.ensure_future(llm.ainvoke("Who?", contexts=PASSAGES))
    while len(steps) < 20 and not task.done():
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.2)
    done = len(steps)
    assert done < 200
    time.sleep(0.3)
    assert len(steps) == done
    assert not llm.engine.model.lock.locked()
    assert llm.invoke("Who?", contexts=PASSAGES).text == expected


def test_errors_reach_callbacks_at_once(chat: Chat) -> None:
    recorder = Recorder()
    llm = chat()
    with pytest.raises(InputError, match="window"):
        list(llm.stream("ferry " * 600, config={"callbacks": [recorder]}))
    assert recorder.failed == 1
    "".join(c.text for c in llm.stream("Who?", config={"callbacks": [recorder]}))
    assert "".join(recorder.tokens) == llm.invoke("Who?").text
    assert recorder.ended == 1


async def test_timeout(chat: Chat) -> None:
    llm = chat(max_tokens=300, timeout=1e-6)
    for run in (
        lambda: llm.invoke("Who?"),
        lambda: list(llm.stream("Who?")),
        lambda: llm.batch(["Who?", "When?"]),
    ):
        with pytest.raises(TimeoutError, match="timeout=1e-06"):
            run()
    with pytest.raises(TimeoutError):
        await llm.ainvoke("Who?")
    assert chat(timeout=600).invoke("Who?").text


@pytest.mark.parametrize("style", ["short", "long"])
def test_a_chat_on_a_base_model_ends_with_its_turn(chat: Chat, style: str) -> None:
    llm = chat(template=False, style=style, max_tokens=60)
    talk = [HumanMessage("Who?"), AIMessage("Ada."), HumanMessage("When?")]
    for mark in ("\n\nuser: Who", "\nUser: Who"):
        message = llm.invoke(talk, regex=f"Noon{mark}")
        assert message.content == "Noon"
        assert message.response_metadata["finish_reason"] == "stop"
    plain = NBCELLM(engine=llm.engine, max_tokens=60)
    for prompt in (talk, "Human: When?\nAI:"):
        assert plain.invoke(prompt, regex="Noon\nHuman: Who") == "Noon"


def test_logprobs_and_finish_reasons_stand_where_integrations_put_them(chat: Chat) -> None:
    llm = chat(max_tokens=3)
    message = llm.invoke("Who?", logprobs=True)
    tokens = message.response_metadata["logprobs"]["content"]
    assert len(tokens) == 3
    assert all(token["logprob"] <= 0 and token["top_logprobs"] == [] for token in tokens)
    assert bytes(tokens[0]["bytes"]).decode() == tokens[0]["token"]
    assert "logprobs" not in llm.invoke("Who?").response_metadata
    whole: Any = None
    for chunk in chat(max_tokens=3, logprobs=True).stream("Who?"):
        whole = chunk if whole is None else whole + chunk
    assert whole.response_metadata["logprobs"]["content"] == tokens
    assert whole.response_metadata["finish_reason"] == "length"
    result = llm._generate([HumanMessage("Who?")])
    assert result.llm_output == {
        "model_name": llm.name_of(),
        "finish_reason": "length",
        "token_usage": {
            name: result.generations[0].message.usage_metadata[name]  # type: ignore[attr-defined]
            for name in ("input_tokens", "output_tokens", "total_tokens")
        },
    }
    assert (result.generations[0].generation_info or {})["finish_reason"] == "length"
    plain = NBCELLM(engine=llm.engine, max_tokens=3)
    made = plain.generate(["Who?"], logprobs=True)
    info = made.generations[0][0].generation_info or {}
    said = "".join(token["token"] for token in info["logprobs"]["content"])
    assert said.strip() == made.generations[0][0].text.strip()
    assert info["finish_reason"] == (made.llm_output or {})["finish_reason"]
    assert info["finish_reason"] in ("length", "stop")
    others = llm.invoke("Who?", top_logprobs=2).response_metadata["logprobs"]["content"]
    for token, alone in zip(others, tokens, strict=True):
        best, second = token["top_logprobs"]
        assert token["logprob"] == alone["logprob"] == best["logprob"] >= second["logprob"]
        assert best["token"].strip() == token["token"].strip() != second["token"].strip()
        assert bytes(second["bytes"]).decode() == second["token"]
    assert NBCELLM(engine=llm.engine, max_tokens=3, top_logprobs=1).top_logprobs == 1
    with pytest.raises(InputError, match="top_logprobs=-1"):
        llm.invoke("Who?", top_logprobs=-1)


class Person(BaseModel):
    name: str
    age: int


def test_structured_output(chat: Chat, taught_folder: Any) -> None:
    schema = {
        "title": "Choice",
        "description": "A choice.",
        "type": "object",
        "properties": {"answer": {"enum": ["yes", "no"]}},
        "required": ["answer"],
    }
    llm = chat(max_tokens=40)
    for method in ("json_schema", "function_calling"):
        made = llm.with_structured_output(schema, method=method).invoke("Who?")
        assert made["answer"] in ("yes", "no")
    raw = llm.with_structured_output(schema, include_raw=True).invoke("Who?", contexts=PASSAGES)
    assert raw["parsed"]["answer"] in ("yes", "no")
    assert len(raw["raw"].response_metadata["nbce"]["contexts"]) == 3
    assert raw["parsing_error"] is None
    cut = llm.with_structured_output(Person, include_raw=True).invoke("Who?", max_tokens=3)
    assert cut["parsed"] is None
    assert cut["parsing_error"] is not None
    assert "raise max_tokens" in str(cut["parsing_error"])
    with pytest.raises(InputError, match="'magic'"):
        llm.with_structured_output(schema, method="magic")
    with pytest.raises(InputError, match="schema"):
        llm.with_structured_output()


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("is_class", [True, False])
def test_structured_output_that_is_cut_off_is_never_repaired(chat: Chat, method: str, is_class: bool) -> None:
    class Note(BaseModel):
        """A note."""

        texts: list[str]

    llm = chat(max_tokens=12)
    schema: Any = Note if is_class else {**Note.model_json_schema(), "description": "A note."}
    plain = llm.with_structured_output(schema, method=method)
    with pytest.raises(OutputParserException, match="raise max_tokens"):
        plain.invoke("Who?", max_tokens=1)
    with pytest.raises(OutputParserException, match="raise max_tokens"):
        list(plain.stream("Who?", max_tokens=1))
    raw = llm.with_structured_output(schema, method=method, include_raw=True)
    for made in (raw.invoke("Who?", max_tokens=1), asyncio.run(raw.ainvoke("Who?", max_tokens=2))):
        assert made["parsed"] is None
        assert "raise max_tokens" in str(made["parsing_error"])
        assert made["raw"].response_metadata["finish_reason"] == "length"
    mode: Any = llm.with_structured_output(schema if is_class else None, method="json_mode")
    half = AIMessage('{"texts": ["Ada', response_metadata={"finish_reason": "length"})
    with pytest.raises(OutputParserException, match="raise max_tokens"):
        mode.last.invoke(half)


def test_forced_and_forbidden_tools(chat: Chat) -> None:
    llm = chat(max_tokens=60)

    class find(BaseModel):
        """Finds."""

        kind: bool

    class stay(BaseModel):
        """Stays."""

    for choice, allowed in (
        ("any", {"find", "stay"}),
        ("find", {"find"}),
        ({"name": "stay"}, {"stay"}),
        (True, {"find", "stay"}),
    ):
        bound = llm.bind_tools([find, stay], tool_choice=choice)
        message = bound.invoke("Who?", contexts=PASSAGES)
        (call,) = message.tool_calls
        assert call["name"] in allowed
        assert message.text == ""
        whole: Any = None
        for chunk in bound.stream("Who?", contexts=PASSAGES):
            whole = chunk if whole is None else whole + chunk
        assert [(c["name"], c["args"]) for c in whole.tool_calls] == [(call["name"], call["args"])]
    with pytest.raises(InputError, match="'fnd'"):
        llm.bind_tools([find], tool_choice="fnd")
    silent = llm.bind_tools([find], tool_choice="none").invoke("Who?")
    assert not silent.tool_calls
    assert silent.text == llm.invoke("Who?").text


def test_conversations_that_templates_refuse(make_nbce: Any) -> None:
    from nbce_rag.models.transformers.loading import wrap_model

    strict = (
        "{% for m in messages %}{% if m['role'] not in ['user', 'assistant'] or (m['role'] == 'user') != "
        "(loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
        "<{{ m['role'] }}>{{ m['content'] | trim }}\n{% endfor %}<assistant>"
    )
    engine = make_nbce("llama", chat=True)
    tokenizer = copy.deepcopy(engine.model.tokenizer.native)
    tokenizer.chat_template = strict
    llm = ChatNBCE(engine=NBCE(wrap_model(engine.model.model, tokenizer, name="strict"), max_tokens=4))
    messages = [
        SystemMessage("Be brief."),
        SystemMessage("Be kind."),
        HumanMessage("One?"),
        HumanMessage("Two?"),
        AIMessage("A."),
        AIMessage("B."),
        HumanMessage("Three?"),
    ]
    call = llm._prepare(messages, None, {"contexts": PASSAGES})
    encoder = encoder_of(call)
    ids = [*encoder.prefix, *encoder.suffix(call.request.question).ids]
    assert tokenizer.decode(ids) == (
        "<user>Be brief.\n\nBe kind.\n\nOne?\n\nTwo?\n<assistant>A.\n\nB.\n<user>Three?\n<assistant>"
    )
    assert llm.invoke(messages, contexts=PASSAGES).text


def test_special_tokens_in_texts_are_text(chat: Chat) -> None:
    llm = chat()
    call = llm._prepare([HumanMessage("Who?</s> <s>")], None, {"contexts": ["Ada.</s>"]})
    encoder = encoder_of(call)
    ids = [*encoder.suffix(call.request.question).ids, *encoder.passage_ids(None, "Ada.</s>")]
    assert ids.count(llm.engine.model.tokenizer.native.eos_token_id) == 1  # the template's own


def test_special_tokens_in_tool_calls_are_text(chat: Chat) -> None:
    from langchain_core.messages import ToolMessage
    from tiny_models import TOOL_TEMPLATE

    llm = chat()
    tokenizer = copy.deepcopy(llm.engine.model.tokenizer.native)
    tokenizer.chat_template = TOOL_TEMPLATE
    call: Any = {"name": "find", "args": {"q": ["</s>"]}, "id": "c", "type": "tool_call"}
    messages = [HumanMessage("Who?"), AIMessage("", tool_calls=[call]), ToolMessage("</s>", tool_call_id="c")]
    prompt = Prompt(template_messages(messages, ["Who?", "", "</s>"]))
    encoder = bind(prompt, llm.engine.prompt, TransformersTokenizer(tokenizer))
    ids = [*encoder.prefix, *encoder.suffix("Who?").ids]
    assert ids.count(tokenizer.eos_token_id) == 3  # the template's own
    assert "find" in tokenizer.decode(ids)


def test_models_share_weights_and_load_late(tiny_folder: Any) -> None:
    folder = str(tiny_folder("llama", chat=True))
    one, two = (ChatNBCE(model=folder, device="cpu", dtype="float32", max_tokens=3) for _ in range(2))
    assert not one._held
    assert one.invoke("Who?").text == two.invoke("Who?").text
    assert one.nbce() is two.nbce()
    assert one.get_num_tokens("Who runs the ferry?") > 3
    missing = ChatNBCE(model="/no/such/model", local_files_only=True)
    with pytest.raises(Exception, match="/no/such/model"):
        missing.invoke("Who?")


def test_a_used_model_is_copied_without_its_weights(chat: Chat, tiny_folder: Callable[..., Path]) -> None:
    llm = ChatNBCE(model=str(tiny_folder("llama", chat=True)), max_tokens=3, dtype="float32", device="cpu")
    text = llm.invoke("Who?", contexts=["Ada."]).text
    copied, sent = copy.deepcopy(llm), pickle.loads(pickle.dumps(llm))
    assert copied.nbce() is llm.nbce()
    assert sent.model_dump() == llm.model_dump()
    assert not sent._held
    assert sent.invoke("Who?", contexts=["Ada."]).text == text
    given = chat()
    assert copy.deepcopy(given).nbce() is given.nbce()
    with pytest.raises(InputError, match="give model= in place of engine="):
        pickle.dumps(given)


def test_one_model_by_several_names_is_loaded_once(
    tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folder("llama")
    monkeypatch.chdir(folder.parent)
    absolute, relative, path = (
        ChatNBCE(model=model, dtype="float32", device="cpu") for model in (str(folder), folder.name, folder)
    )
    assert absolute.nbce() is relative.nbce() is path.nbce()
    assert isinstance(path.model, str)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fusion": "posteriori"}, "posteriori"),
        ({"temperature": -1}, "temperature=-1"),
        ({"model_path": "x.gguf"}, r"model_path of ChatNBCE \(here it is model\)"),
        ({"num_predict": 5}, r"here it is max_tokens"),
        ({"max_completion_tokens": 5}, r"here it is max_tokens"),
        ({"n_ctx": 2048}, r"here it is window="),
        ({"temprature": 1}, r"Unknown argument temprature"),
        ({"max_tokens": 5, "max_new_tokens": 2}, r"max_new_tokens and max_tokens are the same"),
    ],
)
def test_wrong_arguments_are_told_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChatNBCE(**arguments)


def test_wrong_arguments_of_a_call_are_told_by_our_names(chat: Chat) -> None:
    with pytest.raises(InputError, match=r"documents \(here it is contexts, which a call takes\)"):
        chat().invoke("Who?", documents=["Ada."])
    with pytest.raises(InputError, match=r"retriever.invoke\(question\)"):
        chat().invoke("Who?", contexts=RunnableLambda(lambda question: []))
    for wrong in ("abc", Document("abc"), {"page_content": "abc"}, 3):
        with pytest.raises(InputError, match="list of documents"):
            format_passages(wrong)


def test_a_question_with_parts_is_answered_part_by_part(make_nbce: Any) -> None:
    documents = [Document("The ferry is run by Ada."), Document("The museum is in Orme.")]
    question = "Who runs the ferry?\nWhere is the museum?"
    engine = make_nbce("llama", chat=True, max_tokens=4)
    text = format_passages(documents) + question
    for model in (ChatNBCE(engine=engine), NBCELLM(engine=make_nbce(max_tokens=4))):
        answer = model.invoke(text)
        shown = answer if isinstance(answer, str) else str(answer.content)
        assert shown.startswith("1. ")
        assert "\n2. " in shown
        assert (
            "".join(str(piece if isinstance(piece, str) else piece.content) for piece in model.stream(text))
            == shown
        )
    whole = ChatNBCE(engine=engine, parts=False).invoke(text)
    assert not str(whole.content).startswith("1. ")


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("pieces", [0, 1, 3])
def test_a_loop_that_closes_in_the_middle_of_a_stream_ends_it(
    chat: Callable[..., Any], pieces: int, capfd: pytest.CaptureFixture[str]
) -> None:
    llm = chat(max_tokens=200)

    async def leave() -> Any:
        stream = llm.astream("Who runs the ferry?", contexts=["The ferry is blue."])
        for _ in range(pieces):
            await anext(stream)
        return stream  # which nobody closes

    stream = asyncio.run(leave())
    del stream
    gc.collect()
    assert "already executing" not in "".join(capfd.readouterr())
    for _ in range(200):
        if not llm.engine.scheduler.load.running:
            break
        time.sleep(0.05)
    assert llm.engine.scheduler.load.running == 0
    assert llm.invoke("Who runs it?", contexts=["It is run by Ada."]).content
