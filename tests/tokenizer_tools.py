"""Tokenizers of transformers in two common kinds, made on the spot."""

from __future__ import annotations

from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Llama 2 and Gemma do it: trimmed contents, no system role, BOS written by the template.
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}[INST] {{ m['content'] | trim }} [/INST]{% endfor %}"
)
CORPUS = [
    "Question: Who runs the ferry?\nAnswer: Ada",
    "The ferry to the island.",
    "谁负责渡轮?艾达负责渡轮。",
    "Part",
]


def byte_tokenizer(chat: str | None = CHATML) -> Any:
    """Byte-level without BOS, as Qwen's; its chat tokens have no name such as eos_token, as Llama 3's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|header|>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    wrapped.chat_template = chat
    return wrapped


def bos_tokenizer(chat: str | None = INST, normalizer: Any = None) -> Any:
    """Sentencepiece-like with <s> before and </s> after every text, as Llama 2's."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [*sorted(set("".join(CORPUS)) - {" "}), "He", "▁T", "fe", "rry"]
    merges = [("▁", "T"), ("f", "e")]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={p: i for i, p in enumerate(dict.fromkeys(pieces))}, merges=merges, byte_fallback=True
        )
    )
    blanks = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.normalizer = normalizers.Sequence([normalizer, blanks]) if normalizer else blanks
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    wrapped.chat_template = chat
    return wrapped
