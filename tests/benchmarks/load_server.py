r"""A server under load: who waits for whom, what is refused, what is left when clients are gone.

    python tests/benchmarks/load_server.py [--seconds 60] [--clients 32] [--packaged]

Starts `nbce-rag serve` with a tiny model of random weights (or the packaged one) and asks it over loopback,
with documents in the requests, so that answers can be compared with those of the same questions asked alone.

1. Four clients at once: nobody's first token comes after another's end.
2. `--clients` clients for `--seconds`: every answer is the one that was given alone, every request is
   answered or refused with 429 and `Retry-After`, and memory is flat.
3. Clients that are killed (SIGKILL) in the middle of a stream: how long until their turns are free.
4. A client that does not read what it is sent, beside others: what it costs them.
5. Tokens a second of 1, 4 and 16 clients.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

TESTS = Path(__file__).parents[1]
NAMES = ("Zeta", "Omega", "Theta", "Sigma", "Kappa", "Delta", "Gamma", "Lambda")
DOCUMENTS = [f"The code of {name} is {3 * place + 2} blue apples." for place, name in enumerate(NAMES)]


@dataclass
class Reply:
    """What came of one request; times by `time.monotonic`, None where nothing came."""

    status: int
    text: str = ""
    tokens: int = 0
    begun: float = 0.0
    first: float | None = None
    end: float = 0.0
    retry_after: int | None = None
    error: str | None = None


@dataclass
class Figures:
    """What was found, and what is wrong with it."""

    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def tell(self, line: str, is_right: bool = True) -> None:
        self.lines.append(line)
        print(line if is_right else f"WRONG: {line}", flush=True)
        if not is_right:
            self.faults.append(line)


def body(number: int, tokens: int) -> dict[str, Any]:
    """A request: question and documents depend on the number alone."""
    first = number % len(NAMES)
    documents = [DOCUMENTS[(first + step) % len(NAMES)] for step in range(3)]
    question = f"What is the code of {NAMES[first]}?"
    return {"question": question, "documents": documents, "options": {"max_tokens": tokens}, "stream": True}


async def ask(client: httpx.AsyncClient, number: int, tokens: int) -> Reply:
    """Asks, and reads to the end."""
    reply = Reply(0, begun=time.monotonic())
    async with client.stream("POST", "/v1/ask", json=body(number, tokens)) as response:
        reply.status = response.status_code
        if "retry-after" in response.headers:
            reply.retry_after = int(response.headers["retry-after"])
        event = ""
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                event = line[7:]
            elif line.startswith("data: ") and event == "piece":
                reply.first = reply.first or time.monotonic()
                data = json.loads(line[6:])
                reply.text += data["text"]
                reply.tokens += len(data["tokens"])
            elif line.startswith("data: ") and event == "error":
                reply.error = line[6:]
    reply.end = time.monotonic()
    return reply


async def four_at_once(client: httpx.AsyncClient, tokens: int, figures: Figures) -> None:
    replies = await asyncio.gather(*(ask(client, number, tokens) for number in range(4)))
    firsts = [reply.first or float("inf") for reply in replies]
    ends = [reply.end for reply in replies]
    waits = [f"{first - reply.begun:.2f}" for first, reply in zip(firsts, replies, strict=True)]
    told = f"4 clients: first tokens after {', '.join(waits)} s, the first end after "
    told += f"{min(ends) - replies[0].begun:.2f} s"
    figures.tell(told, max(firsts) <= min(ends))


async def many(
    client: httpx.AsyncClient,
    clients: int,
    seconds: float,
    tokens: int,
    server: psutil.Process,
    figures: Figures,
) -> None:
    alone = {number: (await ask(client, number, tokens)).text for number in range(len(NAMES))}
    counts: Counter[str] = Counter()
    memory: list[float] = []
    firsts: list[float] = []
    end = time.monotonic() + seconds

    async def one(place: int) -> None:
        number = place
        while time.monotonic() < end:
            reply = await ask(client, number, tokens)
            counts["asked"] += 1
            if reply.status == 200 and reply.error is None:
                counts["answered" if reply.text == alone[number % len(NAMES)] else "wrong"] += 1
                firsts.append((reply.first or reply.end) - reply.begun)
            elif reply.status == 429 and reply.retry_after:
                counts["refused"] += 1
                await asyncio.sleep(min(reply.retry_after, 1 + place % 3))
            else:
                counts["lost"] += 1
            number += 1

    async def watch() -> None:
        while time.monotonic() < end:
            memory.append(server.memory_info().rss / 2**20)
            await asyncio.sleep(0.5)

    await asyncio.gather(watch(), *(one(place) for place in range(clients)))
    told = ", ".join(f"{counts[name]} {name}" for name in ("asked", "answered", "refused", "wrong", "lost"))
    right = counts["answered"] + counts["refused"] == counts["asked"] and counts["answered"] > 0
    figures.tell(f"{clients} clients for {seconds:g} s: {told}", right)
    if firsts:
        print(f"  first token after {statistics.median(firsts):.2f} s (median), {max(firsts):.2f} s at most")
    third = len(memory) // 3
    if third:
        middle, last = statistics.median(memory[third : 2 * third]), statistics.median(memory[2 * third :])
        figures.tell(
            f"  memory {middle:.0f} MiB in the middle, {last:.0f} MiB at the end", last < 1.05 * middle + 10
        )


async def killed(client: httpx.AsyncClient, url: str, tokens: int, figures: Figures) -> None:
    code = (
        "import httpx, json, sys\n"
        "url, body = sys.argv[1] + '/v1/ask', json.loads(sys.argv[2])\n"
        "with httpx.stream('POST', url, json=body, timeout=600) as reply:\n"
        "    for line in reply.iter_lines(): print(line, flush=True)\n"
    )
    processes = []
    for number in range(4):
        arguments = [sys.executable, "-c", code, url, json.dumps(body(number, tokens))]
        processes.append(subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True))
    for process in processes:
        assert process.stdout is not None
        while "event: piece" not in process.stdout.readline():
            pass
    before = await gauge(client, "nbce_requests_running")
    for process in processes:
        process.send_signal(signal.SIGKILL)
    begun = time.monotonic()
    while await gauge(client, "nbce_requests_running"):
        if time.monotonic() - begun > 60:
            break
        await asyncio.sleep(0.02)
    seconds = time.monotonic() - begun
    figures.tell(
        f"{before:g} clients killed: their turns are free after {seconds:.2f} s", before == 0 or seconds < 5
    )


async def slow_reader(client: httpx.AsyncClient, url: str, tokens: int, figures: Figures) -> None:
    async def others() -> float:
        replies = await asyncio.gather(*(ask(client, number, tokens) for number in range(2)))
        return max(reply.end - reply.begun for reply in replies)

    without = await others()
    host, port = url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1024)
    text = json.dumps(body(5, 10 * tokens)).encode()
    head = f"POST /v1/ask HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(text)}\r\n\r\n"
    writer.write(head.encode() + text)
    await writer.drain()
    await asyncio.sleep(0.2)
    beside = await others()
    writer.close()
    told = f"beside a client that does not read: {beside:.2f} s in place of {without:.2f} s"
    figures.tell(told, beside < 5 * without + 2)


async def throughput(client: httpx.AsyncClient, tokens: int, figures: Figures) -> None:
    told = []
    for clients in (1, 4, 16):
        begun = time.monotonic()
        count = max(clients, 4)

        async def one(place: int, clients: int = clients, count: int = count) -> int:
            total = 0
            for number in range(place, count, clients):
                reply = await ask(client, number, tokens)
                total += reply.tokens
            return total

        total = sum(await asyncio.gather(*(one(place) for place in range(clients))))
        told.append(f"{clients}: {total / (time.monotonic() - begun):.1f}")
    figures.tell(f"tokens a second by clients: {', '.join(told)}")


async def gauge(client: httpx.AsyncClient, name: str) -> float:
    """A figure of /metrics."""
    text = (await client.get("/metrics")).text
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} "))


async def run(url: str, pid: int, options: argparse.Namespace) -> Figures:
    figures = Figures()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        await ask(client, 0, 2)  # whatever is loaded late
        await four_at_once(client, options.tokens, figures)
        await many(client, options.clients, options.seconds, options.tokens, psutil.Process(pid), figures)
        await killed(client, url, 10 * options.tokens, figures)
        await slow_reader(client, url, options.tokens, figures)
        await throughput(client, options.tokens, figures)
    return figures


def tiny_model(folder: Path) -> Path:
    """A model of random weights and its tokenizer."""
    sys.path.insert(0, str(TESTS))
    from tiny_models import build_model, build_tokenizer

    tokenizer = build_tokenizer(chat=True)
    build_model("llama", len(tokenizer), window=2048).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=16, help="of each answer")
    parser.add_argument("--packaged", action="store_true", help="the packaged model in place of a tiny one")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "nbce_rag", "serve", "--port", "0", "--dtype", "float32"]
        command += ["--limit", "max_waiting=16"]
        if not options.packaged:
            command += ["--model", str(tiny_model(Path(folder) / "model"))]
        environ = {**os.environ, "PYTHONUNBUFFERED": "1", "NBCE_CACHE": str(Path(folder) / "cache")}
        log = (Path(folder) / "log").open("wb")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environ)
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip().removeprefix("nbce-rag at ")
            while not is_ready(url):
                assert process.poll() is None, (Path(folder) / "log").read_text()
                time.sleep(0.5)
            figures = asyncio.run(run(url, process.pid, options))
            process.send_signal(signal.SIGTERM)
            figures.tell(f"ended with {process.wait(120)}", process.returncode == 0)
        finally:
            process.kill()
    return len(figures.faults)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=30).status_code == 200
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    sys.exit(main())
