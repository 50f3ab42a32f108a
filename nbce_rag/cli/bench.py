"""`nbce-rag bench`: the benchmark on the command line. Loads nothing heavy before it runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from ..files import check_writable, write_json
from ..fusion.registry import RULES
from .console import errors_in_one_line, notes, progress_bar, say, table_console
from .options import DeviceOption, DtypeOption, ModelOption

__all__ = ["bench_command"]

_RATIOS = {
    "ttft_ram_vs_concat": "first token from memory, times sooner than concat",
    "ttft_disk_vs_concat": "first token from disk, times sooner than concat",
    "ttft_cold_vs_concat": "first token cold, times sooner than concat",
    "ms_per_token_vs_plain": "a token, times less than the plain loop",
    "ms_per_token_lookup_vs_plain": "a token with lookup, times less than the plain loop",
    "ms_per_token_vs_one_row": "a token from memory against one of one row",
    "step_vs_floor": "a token against the floor of a step",
    "answer_32_vs_llama_cpp": "an answer of 32 tokens from memory against llama.cpp's",
    "answer_64_vs_llama_cpp": "an answer of 64 tokens",
    "answer_128_vs_llama_cpp": "an answer of 128 tokens",
    "answer_256_vs_llama_cpp": "an answer of 256 tokens",
}


def bench_command(
    passages: Annotated[int, typer.Option(metavar="N", min=1, help="How many passages.")] = 10,
    passage_tokens: Annotated[int, typer.Option(metavar="N", min=2, help="Tokens of each.")] = 128,
    question_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens of the question.")] = 16,
    tokens: Annotated[int, typer.Option(metavar="N", min=2, help="New tokens.")] = 64,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Counted runs of each variant.")] = 3,
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Threads of torch.", show_default="torch's own")
    ] = None,
    fusion: Annotated[str, typer.Option(metavar="RULE", help=f"{', '.join(RULES)}.")] = "posterior",
    model: ModelOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    peers: Annotated[
        bool,
        typer.Option("--peers", help="Also llama.cpp on the concatenated prompt (extra \\[llama-cpp])."),
    ] = False,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Also write all figures here.", show_default=False),
    ] = None,
) -> None:
    """Time the first token and each further one: concatenated prompt, plain loop, and this engine."""
    with errors_in_one_line("nothing was measured"):
        if json_file is not None:
            check_writable(json_file)  # before minutes of work
        with notes() as found, redirect_stdout(sys.stderr):
            from ..benchmark.run import benchmark

            with progress_bar() as bar:
                report = benchmark(
                    model,
                    passages=passages,
                    passage_tokens=passage_tokens,
                    question_tokens=question_tokens,
                    tokens=tokens,
                    repeats=repeats,
                    threads=threads,
                    fusion=fusion,
                    device=device,
                    dtype=dtype or "auto",
                    peers=peers,
                    progress=bar,
                )
        if json_file is not None:
            write_json(json_file, report)
        for note in found:
            say(f"warning: {note}")
        _show(report)


def _show(report: Mapping[str, Any]) -> None:
    from rich.table import Table

    console = table_console(120)
    settings, machine, floor = report["settings"], report["machine"], report["floor"]
    where = machine["processor"] if machine["device"] == "cpu" else machine["device"]
    lines = [
        f"{report['model']} in {report['dtype']} on {where}, {machine['threads']} threads: "
        f"{settings['passages']} passages of {settings['passage_tokens']} tokens, question of "
        f"{settings['question_tokens']}, {settings['tokens']} new tokens, median of {settings['repeats']}",
        f"floor of a step {floor['ms_per_step']:.0f} ms: weights {floor['weight_bytes'] / 2**20:.0f} MiB, "
        f"memory {floor['bandwidth'] / 1e9:.0f} GB/s, matrix product {floor['rate'] / 1e9:.0f} GFLOP/s",
    ]
    table = Table(box=None, pad_edge=False)
    table.add_column("variant", no_wrap=True)
    for name in ("first token s", "ms a token", "tokens/s", "s for 32 / 64 / 128 / 256", "peak MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, values in report["variants"].items():
        table.add_row(
            name,
            f"{values['ttft_s']:.2f}",
            f"{values['ms_per_token']:.0f}",
            f"{values['tokens_per_s']:.1f}",
            " / ".join(f"{seconds:.1f}" for seconds in values["answer_s"].values()),
            f"{values['peak_bytes'] / 2**20:.0f}",
        )
    for line in lines:
        console.print(line, markup=False, highlight=False)
    console.print(table)
    ratios = Table(box=None, pad_edge=False, show_header=False)
    ratios.add_column()
    ratios.add_column(justify="right")
    for name, wording in _RATIOS.items():
        if name in report["ratios"]:
            ratios.add_row(wording, f"{report['ratios'][name]:.2f}")
    console.print(ratios)
    ours = report["variants"]["ram"]
    console.print(
        f"Row-steps of an answer: {ours['row_steps']} read, {ours['slept_row_steps']} slept. "
        f"Keys and values: {ours['kv_bytes_per_token'] / 2**10:.0f} KiB a token.",
        highlight=False,
    )
    if not report["same_tokens"]:
        console.print("The variants did not all give the same tokens: near ties, rounded differently.")
