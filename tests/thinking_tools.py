"""Chat templates of models that think, in short form with their own logic, and a model that does so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from table_model import TableModel
from torch import Tensor

from nbce_rag.engine.nbce import NBCE
from nbce_rag.errors import ModelError
from nbce_rag.prompts.thinking import thinking_of
from nbce_rag.prompts.thought_format import ThoughtFormat

__all__ = ["TEMPLATES", "ChatTokenizer", "Thinker", "make_thinker"]

QWEN3 = """\
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- set content = m.content %}
        {%- set thought = '' %}
        {%- if m.reasoning_content is string %}
            {%- set thought = m.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<|im_start|>assistant\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
            {{- content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

# It begins the thought itself, and nothing switches it off.
DEEPSEEK_R1 = """\
{%- for m in messages %}
    {%- if m.role == 'user' %}{{ '<|im_start|>user' + m.content }}{% endif %}
    {%- if m.role == 'system' %}{{ m.content }}{% endif %}
    {%- if m.role == 'assistant' %}
        {%- set content = m.content.split('</think>')[-1] if '</think>' in m.content else m.content %}
        {{- '<|im_start|>assistant' + content + '<|im_end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant<think>\\n' }}{% endif %}"""

# The same of an earlier day: the model begins the thought.
R1_DISTILL = DEEPSEEK_R1.replace("<think>\\n' }}{% endif %}", "' }}{% endif %}")

DEEPSEEK_V31 = """\
{%- if thinking is not defined %}{% set thinking = false %}{% endif %}
{%- for m in messages %}
    {%- if m.role == 'user' %}{{ '<|im_start|>user' + m.content }}{% endif %}
    {%- if m.role == 'assistant' %}
        {%- set content = m.content.split('</think>', 1)[1] if '</think>' in m.content else m.content %}
        {{- '<|im_start|>assistant</think>' + content + '<|im_end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant' }}{{ '<think>' if thinking else '</think>' }}
{%- endif %}"""

GLM = """\
{%- for m in messages %}
    {%- if m.role == 'user' %}
        {{- '<|im_start|>user\\n' + m.content }}
        {{- '/nothink' if (enable_thinking is defined and not enable_thinking) else '' }}
    {%- elif m.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}
        {%- if loop.last and m.reasoning_content is string %}
            {{- '\\n<think>' + m.reasoning_content.strip() + '</think>' }}
        {%- else %}
            {{- '\\n<think></think>' }}
        {%- endif %}
        {{- '\\n' + m.content.strip() }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant' }}
    {{- '\\n<think></think>' if (enable_thinking is defined and not enable_thinking) else '' }}
{%- endif %}"""

GRANITE = """\
{%- if thinking %}
    {{- '<|im_start|>system\\nWrite the thoughts between <think></think> and the answer between ' }}
    {{- '<response></response>.<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

SMOLLM3 = """\
{%- if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}
{%- set mode = '/think' if enable_thinking else '/no_think' %}
{{- '<|im_start|>system\\nReasoning Mode: ' + mode + '\\n' }}
{%- if mode == '/think' %}
    {{- 'Use the format: <think> Thought section </think> Solution section.' }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for m in messages %}
    {%- if m.role == 'assistant' and mode == '/no_think' %}
        {{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n' + m.content + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' + ('' if mode == '/think' else '<think>\\n\\n</think>\\n') }}
{%- endif %}"""

GPT_OSS = """\
{%- if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}{% endif %}
{{- '<|start|>system<|message|>Reasoning: ' + reasoning_effort + '\\n\\n' }}
{{- '# Valid channels: analysis, commentary, final.<|end|>' }}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- if '<|channel|>' in m.content %}{{ raise_exception('Pass them as thinking.') }}{% endif %}
        {%- if 'tool_calls' in m %}
            {%- if m.content and m.thinking %}{{ raise_exception('Not both.') }}{% endif %}
            {%- if m.thinking %}
                {{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}
            {%- endif %}
            {{- '<|start|>assistant to=functions.' + m.tool_calls[0].function.name }}
            {{- '<|channel|>commentary json<|message|>' + m.tool_calls[0].function.arguments | tojson }}
            {{- '<|call|>' }}
        {%- else %}
            {{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}
        {%- endif %}
    {%- elif m.role == 'tool' %}
        {{- '<|start|>functions to=assistant<|channel|>commentary<|message|>' + m.content + '<|end|>' }}
    {%- else %}
        {{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"""

MAGISTRAL = """\
{%- if messages[0].role != 'system' %}
    {{- '[SYSTEM_PROMPT]First draft your thinking process: [THINK]thoughts[/THINK]answer[/SYSTEM_PROMPT]' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}{% else %}{{ m.content }}{% endif %}
{%- endfor %}"""

GEMMA4 = """\
{%- if enable_thinking is defined and enable_thinking %}{{ '<|turn>system\\n<|think|><turn|>\\n' }}{% endif %}
{%- for m in messages %}
    {%- set role = 'model' if m.role == 'assistant' else m.role %}
    {{- '<|turn>' + role + '\\n' + m.content + '<turn|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|turn>model\\n' }}
    {%- if not enable_thinking | default(false) %}{{ '<|channel>thought\\n<channel|>' }}{% endif %}
{%- endif %}"""

SEED = """\
{%- if thinking_budget is not defined %}{% set thinking_budget = -1 %}{% endif %}
{%- if thinking_budget == 0 %}{{ '<|im_start|>system\\nYour thinking budget is 0.<|im_end|>' }}{% endif %}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' }}{% endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if thinking_budget == 0 %}{{ '<seed:think><seed:cot_budget_reflect>' }}{% endif %}
{%- endif %}"""

COHERE = """\
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {{- '<|im_start|>assistant<|START_RESPONSE|>' + m.content + '<|END_RESPONSE|><|im_end|>' }}
    {%- else %}
        {{- '<|im_start|>' + m.role + m.content + '<|im_end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant' }}
    {%- if reasoning is defined and not reasoning %}
        {{- '<|START_THINKING|><|END_THINKING|>' }}
    {%- else %}
        {{- '<|START_THINKING|>' }}
    {%- endif %}
{%- endif %}"""

KIMI_K3 = """\
{%- if thinking is undefined %}{% set thinking = true %}{% endif %}
{%- for m in messages %}
    {{- '<|im_start|>' + m.role }}
    {%- if m.role == 'assistant' %}
        {%- if thinking %}
            {{- '<|open|>think<|sep|>' + (m.reasoning_content or '') + '<|close|>think<|sep|>' }}
        {%- endif %}
        {{- '<|open|>response<|sep|>' + m.content + '<|close|>response<|sep|>' }}
    {%- else %}
        {{- m.content }}
    {%- endif %}
    {{- '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant<|open|>' + ('think' if thinking else 'response') + '<|sep|>' }}
{%- endif %}"""

# Marks that nobody has heard of.
UNHEARD = """\
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- if m.reasoning_content %}{{ '<muse>\\n' + m.reasoning_content + '\\n</muse>\\n' }}{% endif %}
    {{- m.content + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

PLAIN = """\
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

TEMPLATES = {
    "qwen3": QWEN3,
    "deepseek_r1": DEEPSEEK_R1,
    "r1_distill": R1_DISTILL,
    "deepseek_v31": DEEPSEEK_V31,
    "glm": GLM,
    "granite": GRANITE,
    "smollm3": SMOLLM3,
    "gpt_oss": GPT_OSS,
    "magistral": MAGISTRAL,
    "gemma4": GEMMA4,
    "seed": SEED,
    "cohere": COHERE,
    "kimi_k3": KIMI_K3,
    "unheard": UNHEARD,
    "plain": PLAIN,
}

EOS = "<|im_end|>"
_SPECIALS = (
    EOS,
    "<|im_start|>",
    "<|start|>",
    "<|end|>",
    "<|channel|>",
    "<|message|>",
    "<|call|>",
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[THINK]",
    "[/THINK]",
    "<|turn>",
    "<turn|>",
    "<|channel>",
    "<channel|>",
    "<|think|>",
    "<|START_THINKING|>",
    "<|END_THINKING|>",
    "<|START_RESPONSE|>",
    "<|END_RESPONSE|>",
    "<|open|>",
    "<|close|>",
    "<|sep|>",
)


class ChatTokenizer:
    """A token a byte and a few special ones, with a chat template rendered as transformers does it.

    Args:
        template: one of `TEMPLATES`, or its text.
        specials: texts that are special tokens; None takes those that the template writes.
    """

    name = "chat"
    bos_ids: tuple[int, ...] = ()
    has_chat_template = True

    def __init__(self, template: str, specials: Sequence[str] | None = None) -> None:
        self.template = TEMPLATES.get(template, template)
        if specials is None:
            specials = [text for text in _SPECIALS if text == EOS or text in self.template]
        self.specials = frozenset(specials)
        self._ids = {text: 256 + place for place, text in enumerate(specials)}
        self._texts = {number: text for text, number in self._ids.items()}
        self._split = re.compile("|".join(map(re.escape, specials)) + "|.", re.DOTALL)
        self.size = 256 + len(specials)
        self.eos = self._ids[EOS]
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        self._compiled = environment.from_string(self.template)

    def encode(self, text: str) -> tuple[int, ...]:
        return self._encode(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[tuple[int, ...], list[tuple[int, int]]] | None:
        return self._encode(text)

    def decode(self, ids: Sequence[int], *, skip_specials: bool = False) -> str:
        return self._bytes(ids, skip_specials).decode(errors="replace")

    def exactly(self, ids: Sequence[int]) -> str:
        """The text from which `encode` makes the same ids again, half characters and all."""
        return self._bytes(ids).decode(errors="surrogateescape")

    def _bytes(self, ids: Sequence[int], skip_specials: bool = False) -> bytes:
        parts = (bytes([i]) if i < 256 else b"" if skip_specials else self._texts[i].encode() for i in ids)
        return b"".join(parts)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        def refuse(message: str) -> None:
            raise ModelError(message)

        try:
            return self._compiled.render(
                messages=list(messages),
                add_generation_prompt=True,
                raise_exception=refuse,
                **({"tools": list(tools)} if tools else {}),
                **(variables or {}),
            )
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"The chat template fails: {error}") from error

    def grammar_index(self, eos_ids: Sequence[int]) -> Any:
        from llguidance import LLTokenizer, TokenizerWrapper

        class Bytes(SimpleNamespace):
            def __call__(self, text: bytes) -> list[int]:
                return list(text)

        tokens = [*(bytes([i]) for i in range(256)), *(b"\xff" + t.encode() for t in self._ids)]
        inner = Bytes(
            eos_token_id=self.eos,
            bos_token_id=None,
            tokens=tokens,
            special_token_ids=list(self._ids.values()),
        )
        return LLTokenizer(TokenizerWrapper(inner), eos_token=list(eos_ids))

    def _encode(self, text: str) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for match in self._split.finditer(text):
            piece = match[0]
            numbers = (
                [self._ids[piece]] if piece in self._ids else list(piece.encode(errors="surrogateescape"))
            )
            ids += numbers
            offsets += [match.span()] * len(numbers)
        return tuple(ids), offsets


class Thinker:
    """A table of a model that thinks and then answers, also where something else closes its thought.

    Args:
        tokenizer: a `ChatTokenizer`.
        thought: what it thinks; "" opens no thought by itself, and closes one at once.
        answer: what it answers.
        form: the marks that it uses; None takes those of the template.
        asked: where in a prompt its own turn may begin.
    """

    def __init__(
        self, tokenizer: ChatTokenizer, thought: str, answer: str, form: ThoughtFormat | None = None
    ) -> None:
        self.tokenizer, self.thought, self.answer = tokenizer, thought, answer
        self.form = form or thinking_of(tokenizer).format

    def __call__(self, ids: Sequence[int]) -> Tensor:
        token = self._next(self.tokenizer.exactly(ids))
        rest = 0.1 / (self.tokenizer.size - 1)
        p = torch.full((self.tokenizer.size,), rest)
        p[token] = 0.9
        return p.log()

    def _next(self, text: str) -> int:
        turn = _turn(text)
        form = self.form
        if form is None:
            return self._token(turn, self.answer)
        opening = form.opening.strip()
        if form.closer in turn:
            said = turn.rpartition(form.closer)[2]
            return self._token(said, form.lead + self.answer + form.stop, form.lead)
        if opening in turn:
            begun = form.opening[len(opening) :] + self.thought + form.closing
            return self._token(turn.partition(opening)[2], begun)
        head = form.without_thought("assistant") or form.answer_opening
        if not self.thought or not form.opening.startswith(turn):
            head = head if form.has_channels else head * turn.startswith(head)
            return self._token(turn, head + self.answer + form.stop)
        return self._token(turn, form.opening)

    def _token(self, said: str, wanted: str, lead: str = "") -> int:
        """The next token of what is wanted, blanks at its beginning said or not."""
        encode = self.tokenizer.encode
        if encode(wanted)[: len(encode(said))] != encode(said):
            said, wanted = said.strip(), wanted.removeprefix(lead)
        ids, done = encode(wanted), encode(said)
        return ids[len(done)] if len(done) < len(ids) and ids[: len(done)] == done else self.tokenizer.eos


def _turn(text: str) -> str:
    """What the model itself has said, of a whole row."""
    asked = max(text.rfind(mark) for mark in ("<|im_start|>user", "<|start|>user", "[INST]", "<|turn>user"))
    for mark in ("<|im_start|>assistant", "<|start|>assistant", "[/INST]", "<|turn>model"):
        _, found, turn = text[asked:].partition(mark)
        if found:
            return turn.removeprefix("\n")
    return ""


def make_thinker(
    template: str, thought: str = "", answer: str = "Ada.", **options: Any
) -> tuple[NBCE, TableModel]:
    """An engine on a model that thinks in a template's marks, and the model."""
    tokenizer = ChatTokenizer(template)
    model = TableModel(
        Thinker(tokenizer, thought, answer), vocab_size=tokenizer.size, tokenizer=tokenizer, window=4096
    )
    model.eos_ids = frozenset({tokenizer.eos})
    return NBCE(model, **options), model
