from __future__ import annotations

from collections.abc import Callable

from nbce_rag.engine.nbce import NBCE
from nbce_rag.noncharacters import PASSAGES
from nbce_rag.prompts.prompt import Prompt
from nbce_rag.request import Request

TEXTS = ["The ferry is run by Ada.", "The market opens at eight."]


async def test_streams_of_several_requests_and_of_ready_ones(make_nbce: Callable[..., NBCE]) -> None:
    nbce = make_nbce(max_tokens=6)
    requests = [nbce.request("Who runs the ferry?", TEXTS), nbce.request("When?", TEXTS[1:])]
    answers = [nbce.batch([request])[0].text for request in requests]
    streamed = ["", ""]
    for index, piece in nbce.stream_batch(requests):
        streamed[index] += piece.text
    assert streamed == answers
    later = ["", ""]
    async for index, piece in nbce.astream_batch(requests):
        later[index] += piece.text
    assert later == answers
    assert "".join(piece.text for piece in nbce.stream(requests[0])) == answers[0]
    assert "".join([piece.text async for piece in nbce.astream(requests[1])]) == answers[1]


def test_a_conversation_may_do_without_passages(make_nbce: Callable[..., NBCE]) -> None:
    nbce = make_nbce(max_tokens=3)
    prompt = Prompt(text=f"{PASSAGES}Good morning")
    assert nbce.batch([Request("", (), nbce.options, prompt)])[0].warnings == ()  # warnings are errors here
