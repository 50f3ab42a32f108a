"""The events of a streamed response, in the order in which OpenAI sends them."""

from __future__ import annotations

from typing import Any

from ...answers.answer import Answer, Piece
from ..ask import Outcome, Retrieved
from .annotations import flat_annotations
from .logprobs import token_logprobs
from .reply import ReplyInfo
from .responses import (
    ResponseCall,
    call_item,
    message_item,
    reasoning_item,
    response_object,
    search_item,
    text_part,
)
from .tools import CallReader

__all__ = ["ResponseEvents"]

Event = dict[str, Any]


class ResponseEvents:
    """Makes the events of a response. Each has its `type` and a `sequence_number`; the last has the whole.

    An item of output is opened with the first that is known of it, and closed before the next one: what was
    searched, what was thought, the message, calls of tools.
    """

    def __init__(self, call: ResponseCall, info: ReplyInfo) -> None:
        self._call, self._info = call, info
        self._reader = CallReader(call.ask.tools, call.ask.is_parallel)
        self._number = 0
        self._done: list[dict[str, Any]] = []  # items of output that are whole
        self._thought: str | None = None
        self._text: str | None = None
        self._annotations: list[dict[str, Any]] = []
        self._logprobs: list[dict[str, Any]] = []
        self._retrieved = Retrieved("")

    def first(self) -> list[Event]:
        """The events before all others."""
        response = response_object(self._call, self._info)
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
        ]

    def retrieved(self, retrieved: Retrieved) -> list[Event]:
        """The events of a search; none where no tool asked for it."""
        self._retrieved = retrieved
        if not self._call.has_search:
            return []
        begun = search_item(self._call, retrieved, self._info, "in_progress")
        whole = search_item(self._call, retrieved, self._info)
        place = {"output_index": 0, "item_id": whole["id"]}
        return [
            self._event("response.output_item.added", output_index=0, item=begun),
            self._event("response.file_search_call.in_progress", **place),
            self._event("response.file_search_call.searching", **place),
            self._event("response.file_search_call.completed", **place),
            self._close(whole),
        ]

    def push(self, piece: Piece, notes: tuple[str, ...] = ()) -> list[Event]:
        """The events of a piece; of the last one, all that end the stream."""
        answer = piece.answer
        events = self._think(piece.thought) if piece.thought else []
        text = self._reader.push(piece.text)
        calls: list[dict[str, Any]] = []
        if answer is not None:
            rest, calls = self._reader.finish()
            text += rest
        logprobs = token_logprobs(piece.tokens) if self._call.logprobs else []
        is_message = bool(text) or (answer is not None and self._text is None and not calls)
        if is_message or (self._text is not None and logprobs):
            events += self._write(text, logprobs)
        else:
            self._logprobs += logprobs
        # What might have become a call is cited when it is known to be none.
        told = answer if self._call.ask.tools else piece
        if told is not None and self._text is not None and not (self._call.ask.tools and calls):
            events += self._cite(told)
        if answer is not None:
            events += self._end_thought() + self._end_text()
            for place, call in enumerate(calls):
                events += self._tell_call(call, place)
            events.append(self._last(answer, notes))
        return events

    def failed(self, error: dict[str, Any]) -> list[Event]:
        """The events of a failure, given an error's body."""
        inner = error["error"]
        response = response_object(self._call, self._info, self._done)
        response |= {"status": "failed", "error": {"code": inner["code"], "message": inner["message"]}}
        told = {name: inner[name] for name in ("code", "message", "param")}
        return [self._event("response.failed", response=response), self._event("error", **told)]

    def _think(self, thought: str) -> list[Event]:
        events = []
        item = reasoning_item(None, self._info)
        where = {"item_id": item["id"], "output_index": len(self._done), "summary_index": 0}
        if self._thought is None:
            self._thought = ""
            part = {"type": "summary_text", "text": ""}
            events += [
                self._event("response.output_item.added", output_index=len(self._done), item=item),
                self._event("response.reasoning_summary_part.added", **where, part=part),
            ]
        self._thought += thought
        events.append(self._event("response.reasoning_summary_text.delta", **where, delta=thought))
        return events

    def _end_thought(self) -> list[Event]:
        if self._thought is None or any(item["type"] == "reasoning" for item in self._done):
            return []
        item = reasoning_item(self._thought, self._info)
        where = {"item_id": item["id"], "output_index": len(self._done), "summary_index": 0}
        return [
            self._event("response.reasoning_summary_text.done", **where, text=self._thought),
            self._event("response.reasoning_summary_part.done", **where, part=item["summary"][0]),
            self._close(item),
        ]

    def _write(self, text: str, logprobs: list[dict[str, Any]]) -> list[Event]:
        events = self._end_thought()
        if self._text is None:
            self._text = ""
            begun = message_item([], self._info, "in_progress")
            events += [
                self._event("response.output_item.added", output_index=len(self._done), item=begun),
                self._event("response.content_part.added", **self._place(), part=text_part("")),
            ]
            logprobs = [*self._logprobs, *logprobs]
            self._logprobs = []
        self._text += text
        self._logprobs += logprobs
        if text or logprobs:
            delta = {"delta": text, "logprobs": logprobs}
            events.append(self._event("response.output_text.delta", **self._place(), **delta))
        return events

    def _cite(self, told: Piece | Answer) -> list[Event]:
        events = []
        for annotation in flat_annotations(told.citations, self._retrieved, self._info, told.unsupported):
            index = {"annotation_index": len(self._annotations), "annotation": annotation}
            events.append(self._event("response.output_text.annotation.added", **self._place(), **index))
            self._annotations.append(annotation)
        return events

    def _end_text(self) -> list[Event]:
        if self._text is None:
            return []
        part = text_part(self._text, self._annotations, self._logprobs)
        whole = {"text": self._text, "logprobs": self._logprobs}
        return [
            self._event("response.output_text.done", **self._place(), **whole),
            self._event("response.content_part.done", **self._place(), part=part),
            self._close(message_item([part], self._info)),
        ]

    def _tell_call(self, call: dict[str, Any], place: int) -> list[Event]:
        begun = call_item(call, place, self._info, "in_progress")
        where = {"item_id": begun["id"], "output_index": len(self._done)}
        arguments = call["arguments"]
        return [
            self._event("response.output_item.added", output_index=len(self._done), item=begun),
            self._event("response.function_call_arguments.delta", **where, delta=arguments),
            self._event(
                "response.function_call_arguments.done", **where, name=call["name"], arguments=arguments
            ),
            self._close(call_item(call, place, self._info)),
        ]

    def _last(self, answer: Answer, notes: tuple[str, ...]) -> Event:
        outcome = Outcome(answer, self._retrieved, notes)
        response = response_object(self._call, self._info, self._done, outcome)
        return self._event(f"response.{response['status']}", response=response)

    def _place(self) -> dict[str, Any]:
        """Where the text of the message is."""
        item = message_item([], self._info)
        return {"item_id": item["id"], "output_index": len(self._done), "content_index": 0}

    def _close(self, item: dict[str, Any]) -> Event:
        event = self._event("response.output_item.done", output_index=len(self._done), item=item)
        self._done.append(item)
        return event

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return event
