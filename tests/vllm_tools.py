"""A server that answers as vLLM does with our plugin in it, over real HTTP, with a small model inside.

Its tokens are those of `LockstepDecoder` over any backend of ours, written and sent as the plugin and vLLM's
API write and send them; what that is was read in vLLM 0.32. It fails on demand: see `Fault`.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import torch

from nbce_rag.decoding.decoder import LockstepDecoder
from nbce_rag.decoding.grammar import Constraint
from nbce_rag.decoding.group import Group
from nbce_rag.decoding.sampling import Sampler
from nbce_rag.fusion import RULES, FusionState
from nbce_rag.models.model import Model, RowPrompt, Step
from nbce_rag.models.vllm.wire import (
    CHOSEN,
    FLOOR,
    GROUP,
    HELLO,
    ROWS,
    SPEC,
    GroupSpec,
    Hello,
    carrier_ids,
    encode_step,
)

__all__ = ["FakeVllm", "Fault", "group_of_spec"]

_PLUGIN = Hello("0", "0.32.0", tuple(RULES))


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request.

    Attributes:
        kind: "status" answers `at` as HTTP status; "die" closes the connection after `at` steps, "end" ends
            the stream in order there, "error" by an event as vLLM sends it, "abort" by a row that is ended by
            the scheduler; "poison" has rows without numbers at step `at`, "unequal" one with another token,
            "lag" one that falls behind; "other" writes another answer from step `at` on; "hang" says nothing
            more.
        at: see there.
    """

    kind: Literal["status", "die", "end", "error", "abort", "poison", "unequal", "lag", "other", "hang"]
    at: int = 0


class FakeVllm:
    """The server, in threads of this process.

    Args:
        model: what answers.
        root: folder of its tokenizer, as `/v1/models` names it.
        name: that it is served by.
        hello: what the plugin says; None is a server without it.
        api_key: that clients must give.
        max_logprobs: as vLLM's option.
        pace: seconds between steps.

    Attributes:
        faults: of the requests for groups to come, one each; None for none.
        reading_faults: of those for likelihoods.
        reading_seconds: that these take.
        bodies: of requests, with their headers.
        written: steps that were sent.
        closed: groups whose client went away before the end.
    """

    def __init__(
        self,
        model: Model,
        root: str,
        *,
        name: str = "tiny/model",
        hello: Hello | None = _PLUGIN,
        api_key: str | None = None,
        max_logprobs: int = 20,
        pace: float = 0.0,
    ) -> None:
        self.model, self.root, self.name, self.hello, self.api_key = model, root, name, hello, api_key
        self.max_logprobs, self.pace = max_logprobs, pace
        self.faults: deque[Fault | None] = deque()
        self.reading_faults: deque[Fault | None] = deque()
        self.reading_seconds = 0.0
        self.bodies: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.written = 0
        self.closed = 0
        self._port = 0
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._model_lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._killed = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Bodies of requests for groups."""
        return [body for body, _ in list(self.bodies) if GROUP in body.get("vllm_xargs", {})]

    def __enter__(self) -> FakeVllm:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Begin to listen, at the port that it had before."""
        fake = self

        class Handler(_Handler):
            server_of = fake

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._killed = threading.Event()
        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = int(self._server.server_address[1])
        serve = self._server.serve_forever
        threading.Thread(target=serve, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def kill(self) -> None:
        """As a process that is killed: no more connections, and those that there are break off."""
        server, self._server = self._server, None
        if server is None:
            return
        self._killed.set()
        server.socket.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            _break_off(connection)
        server.shutdown()
        server.server_close()

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)

    def ended(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)

    @property
    def is_killed(self) -> threading.Event:
        return self._killed

    def prompt_logprobs(self, ids: Sequence[int]) -> list[dict[str, Any] | None]:
        """Of each token given those before it."""
        with self._model_lock:
            rows, [reading] = self.model.open([RowPrompt(((),), tuple(ids[:1]))], len(ids))
            after = [reading.log_probs[0]]
            if len(ids) > 1:
                after += rows.step(torch.tensor([ids[1:]]))[0].unbind(0)
        told: list[dict[str, Any] | None] = [None]
        for token, log_probs in zip(ids[1:], after, strict=False):
            told.append({str(token): {"logprob": float(log_probs[token]), "rank": 1, "decoded_token": "?"}})
        return told

    def steps(self, prompts: Sequence[Sequence[int]], spec: GroupSpec, most: int) -> Iterator[Step]:
        """What the plugin chooses."""
        contexts = tuple(tuple(ids[:-1]) for ids in prompts)
        assert len({ids[-1] for ids in prompts}) == 1

        constraint = None
        if spec.json_schema or spec.regex:
            constraint = Constraint(
                self.model.tokenizer,
                json_schema=spec.json_schema,
                regex=spec.regex,
                vocab_size=self.model.vocab_size,
                eos_ids=self.model.eos_ids,
            )
        with self._model_lock:
            rows, [reading] = self.model.open([RowPrompt(contexts, tuple(prompts[0][-1:]))], most)
            decoder = LockstepDecoder(rows, reading.log_probs, [group_of_spec(spec, constraint)])
        for _ in range(most):
            with self._model_lock:
                [step] = decoder.step()
            yield step
            if step.token in spec.eos:
                return

    def sent(self, step: Step, place: int, spec: GroupSpec, logprobs: int) -> list[dict[str, Any]]:
        """A step as the logprobs of each row, by the best tokens of its logits, as the API has them."""
        out = []
        for values in encode_step(place, step, spec.shape):
            logits = torch.full((self.model.vocab_size,), FLOOR)
            logits[carrier_ids(step.token, spec.shape.carriers)] = torch.tensor(values)
            logits[step.token] = CHOSEN
            out.append(_written(logits, logprobs))
        return out

    def poisoned(self, token: int, logprobs: int) -> dict[str, Any]:
        """A row of a group that fell apart."""
        logits = torch.full((self.model.vocab_size,), FLOOR)
        logits[token] = CHOSEN
        return _written(logits, logprobs)


def group_of_spec(spec: GroupSpec, constraint: Constraint | None = None) -> Group:
    """What the plugin is told of a group, for our own loop."""

    def part(values: Sequence[float] | None) -> torch.Tensor | None:
        return None if values is None else torch.tensor([values])

    options = spec.options
    spelled: Any = _Spelled(spec.spellings)
    return Group(
        tuple(range(spec.rows)),
        options.rule,
        Sampler(options, spelled, frozenset(spec.eos), constraint),
        FusionState(
            scores=part(spec.scores),
            relevance=part(spec.relevance),
            refusal=part(spec.refusal),
            joint=part(spec.joint),
        ),
        entropies=spec.entropies,
        top=spec.top,
    )


class _Spelled:
    """The tokenizer that a sampler sees in the plugin: what it spells came with the group."""

    def __init__(self, spellings: Mapping[str, tuple[int, ...]]) -> None:
        self._spellings = spellings

    def encode(self, text: str) -> tuple[int, ...]:
        return self._spellings[text]


def _written(logits: torch.Tensor, logprobs: int) -> dict[str, Any]:
    values, ids = logits.log_softmax(-1).topk(logprobs)
    top = {
        f"token_id:{id}": max(value, -9999.0) for id, value in zip(ids.tolist(), values.tolist(), strict=True)
    }
    token = next(iter(top))
    return {"text_offset": [0], "tokens": [token], "token_logprobs": [top[token]], "top_logprobs": [top]}


def _break_off(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_of: FakeVllm

    def setup(self) -> None:
        super().setup()
        self.server_of.opened(self.connection)

    def finish(self) -> None:
        self.server_of.ended(self.connection)
        super().finish()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        fake = self.server_of
        if self.path != "/v1/models":
            return self._refuse(404, "Not Found")
        card = {"id": fake.name, "root": fake.root, "max_model_len": fake.model.window}
        return self._answer(200, {"object": "list", "data": [card]})

    def do_POST(self) -> None:
        fake = self.server_of
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        fake.bodies.append((body, {name.lower(): value for name, value in self.headers.items()}))
        if fake.api_key is not None and self.headers.get("authorization") != f"Bearer {fake.api_key}":
            return self._refuse(401, "Unauthorized")
        if body["model"] != fake.name:
            return self._refuse(404, f"The model `{body['model']}` does not exist.")
        extra = body.get("vllm_xargs", {})
        if HELLO in extra and fake.hello is not None:
            return self._refuse(400, f"Value error, {fake.hello.dumps()}")
        if any(len(ids) + body["max_tokens"] > fake.model.window for ids in body["prompt"]):
            return self._refuse(400, f"This model's maximum context length is {fake.model.window} tokens.")
        if body.get("logprobs", 0) > fake.max_logprobs:
            asked = body["logprobs"]
            return self._refuse(
                400, f"Requested sample logprobs of {asked}, which is greater than max allowed."
            )
        if GROUP not in extra:
            return self._read(body)
        return self._write(body)

    def _read(self, body: Mapping[str, Any]) -> None:
        fake = self.server_of
        time.sleep(fake.reading_seconds)
        fault = fake.reading_faults.popleft() if fake.reading_faults else None
        if fault is not None and self._failed_at_once(fault):
            return
        choices = [
            {
                "index": row,
                "text": "",
                "finish_reason": "length",
                "prompt_logprobs": fake.prompt_logprobs(ids) if "prompt_logprobs" in body else None,
            }
            for row, ids in enumerate(body["prompt"])
        ]
        self._answer(200, {"id": "cmpl-1", "object": "text_completion", "choices": choices})

    def _write(self, body: Mapping[str, Any]) -> None:
        fake = self.server_of
        fault = fake.faults.popleft() if fake.faults else None
        if fault is not None and self._failed_at_once(fault):
            return None
        try:
            spec = GroupSpec.loads(body["vllm_xargs"][SPEC])
        except ValueError as error:
            return self._refuse(400, str(error))
        prompts = body["prompt"]
        assert body["vllm_xargs"][ROWS] == spec.rows == len(prompts)
        assert {*spec.eos, spec.poison} == set(body["stop_token_ids"])
        assert (body["temperature"], body["repetition_penalty"]) == (0, 1)
        assert body["ignore_eos"]
        self._begin("text/event-stream")
        try:
            self._stream(body, spec, fault)
        except OSError:
            fake.closed += 1
            self.close_connection = True

    def _stream(self, body: Mapping[str, Any], spec: GroupSpec, fault: Fault | None) -> None:
        fake = self.server_of
        token = 0
        for place, step in enumerate(fake.steps(body["prompt"], spec, body["max_tokens"])):
            time.sleep(fake.pace)
            if fake.is_killed.is_set():
                raise OSError("killed")
            token = step.token
            rows = fake.sent(step, place, spec, body["logprobs"])
            if fault is not None and place >= fault.at:
                if self._is_ended_by(fault):
                    return
                if fault.kind == "end":
                    break
                rows = self._spoiled(fault, rows, step, place, body, spec)
            for row, logprobs in enumerate(rows):
                self._event({"choices": [_choice(row, logprobs)]})
            fake.written += 1
        reason = "stop" if token in spec.eos else "length"
        for row in range(spec.rows):
            self._event({"choices": [_choice(row, None, reason)]})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _is_ended_by(self, fault: Fault) -> bool:
        """Whether a fault ends the stream before its time."""
        if fault.kind == "die":
            _break_off(self.connection)
            raise OSError("dead")
        if fault.kind == "hang":
            self.server_of.is_killed.wait(60)
        elif fault.kind == "error":
            self._event({"error": {"message": "engine died", "type": "x", "code": 500}})
        elif fault.kind == "abort":
            self._event({"choices": [_choice(0, None, "abort", "nbce: 2 of 3 members")]})
        return fault.kind in ("hang", "error", "abort")

    def _spoiled(
        self,
        fault: Fault,
        rows: list[dict[str, Any]],
        step: Step,
        place: int,
        body: Mapping[str, Any],
        spec: GroupSpec,
    ) -> list[dict[str, Any]]:
        fake, logprobs = self.server_of, body["logprobs"]
        if fault.kind == "poison":
            return [fake.poisoned(spec.poison, logprobs) for _ in rows]
        if fault.kind == "unequal":
            return [*rows[:-1], fake.poisoned((step.token + 1) % fake.model.vocab_size, logprobs)]
        if fault.kind == "lag":
            return rows[:-1]
        if fault.kind == "other":
            other = replace(step, token=(step.token + 7) % 40 + 3)
            return fake.sent(other, place, spec, logprobs)
        return rows

    def _failed_at_once(self, fault: Fault) -> bool:
        if fault.kind == "status":
            self._refuse(fault.at, "not now")
            return True
        if fault.kind == "hang" and not fault.at:
            self.server_of.is_killed.wait(60)
            return True
        if fault.kind == "die" and not fault.at:
            _break_off(self.connection)
            self.close_connection = True
            return True
        return False

    def _event(self, event: Mapping[str, Any]) -> None:
        self._chunk(f"data: {json.dumps(event)}\n\n".encode())

    def _begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _refuse(self, status: int, message: str) -> None:
        self._answer(status, {"error": {"message": message, "type": "BadRequestError", "code": status}})

    def _answer(self, status: int, content: Mapping[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _choice(row: int, logprobs: Any, reason: str | None = None, told: Any = None) -> dict[str, Any]:
    return {
        "index": row,
        "text": "",
        "logprobs": logprobs,
        "finish_reason": reason,
        "stop_reason": told,
    }
