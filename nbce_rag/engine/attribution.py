"""The evidence for a text that somebody else wrote: one pass over all rows, and no decoding.

The rows are those that the question would be answered from, sentences included. They read the text as they
would have read their own answer, and the evidence for each of its tokens follows as in decoding.
"""

from __future__ import annotations

import time
from dataclasses import replace

from ..answers.answer import Answer
from ..decoding.detokenizer import TextBuilder
from ..decoding.forced import Onlooker, read_text
from ..decoding.holders import holders_of
from ..decoding.plan import RowPlan
from ..decoding.reader import Engine, read_prompts
from ..decoding.spelling import spell
from ..decoding.turn import turn_sampler
from ..errors import ContextLengthError, InputError, warn
from ..evidence.word_likelihood import word_likelihoods
from ..request import Request
from .generation import Run

__all__ = ["attribute"]


def attribute(engine: Engine, request: Request, text: str) -> Answer:
    """What the passages say of a text.

    The text follows the question at once: nothing is thought of before it. Options of sampling and length
    have no effect, nor have those that end or spare work (`abstain_below`, `sleep`, `drop_rows_after`).

    Args:
        engine: model and wording.
        request: the question, at least one passage, and options.
        text: what somebody else answered.

    Returns:
        An answer with this text, to the character, with `finish_reason` "given" and `words`.

    Raises:
        InputError: an empty text, no passages, rows that do not fit into memory, or a backend that cannot.
        ContextLengthError: the text does not fit behind the question.
    """
    if not isinstance(text, str):
        raise InputError(f"The text must be a string, got {type(text).__name__}.")
    engine.check_steps("attribute a text")
    if not request.passages:
        raise InputError("attribute needs at least one passage.")
    options = request.options.updated(thinking=False, json_schema=None, regex=None, abstain_below=None)
    request = replace(request, options=options)
    encoder, tokenizer = engine.encoder_of(request), engine.model.tokenizer
    spelling = spell(encoder, tokenizer, text)
    request = replace(request, options=options.updated(max_tokens=len(spelling.ids)))
    plan = _plan(engine, request)
    for note in plan.warnings:
        warn(note)
    started = time.perf_counter()
    rows, log_probs, [prompted] = read_prompts(engine, [request], [plan])
    prefilled = time.perf_counter()
    onlooker = Onlooker(prompted.rows, request.options.rule, prompted.state, request.options.entropies)
    read_text(rows, log_probs, spelling.ids, [onlooker], engine.pass_tokens)
    run = Run(
        request=request,
        prompted=prompted,
        text=TextBuilder.of_text(tokenizer, text, spelling.spans),
        sampler=turn_sampler(encoder, request.options, engine.window, tokenizer, engine.model.eos_ids),
        ends=frozenset(),
        started=started,
        prefilled=prefilled,
        holders=holders_of(encoder, prompted.plan, prompted.passages, request.options),
        steps=[one.step for one in onlooker.steps],
        row_steps=((len(spelling.ids) - 1) * len(prompted.rows), 0),
    )
    run.cite(text, run.collect())
    words = word_likelihoods(text, spelling.spans, [one.mixture for one in onlooker.steps])
    return replace(run.answer("given"), words=words)


def _plan(engine: Engine, request: Request) -> RowPlan:
    try:
        return engine.plan(request)
    except ContextLengthError as error:
        raise ContextLengthError(
            f"The text has {request.options.max_tokens} tokens, for which there must be room behind the "
            f"question (that is max_tokens here); give a part of it. {error}"
        ) from error
