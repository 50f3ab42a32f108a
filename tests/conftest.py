"""Tiny models of the real architectures with random weights, and tokenizers; all made on the spot."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FAMILIES = ("llama", "qwen3", "mistral", "gemma3", "gpt2", "phi")
"""Causal language models that differ in what matters for rows: positions, key-value heads, windows, BOS."""

WITHOUT_BOS = ("qwen3", "gpt2", "phi")

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

CORPUS = [
    "The ferry to the island is run by Ada and leaves at noon from the old harbour.",
    "Question: Who runs the ferry?\nAnswer: Ada",
    "Question: When does the market open?\nAnswer: at eight",
    "The market in the square opens at eight and sells fish, bread and apples.",
    "Answer the question from the text, in as few words as possible.",
    "If the text does not contain the answer, reply exactly: I don't know.\n\nText:\n",
    "The museum was built in 1891 and holds 2,350 paintings.",
    "Water boils at 100 degrees at sea level; on the mountain it boils sooner.",
    "船在中午从旧港口出发。艾达负责渡轮。",
    "市场八点开门,卖鱼、面包和苹果。问题:谁负责渡轮?回答:艾达",
]


def build_tokenizer(*, bos: bool = True, chat: bool = False, vocab_size: int = 480) -> Any:
    """A byte-level BPE tokenizer with <s>, </s> and <pad>; `bos` puts <s> before every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    if chat:
        wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def build_model(family: str, vocab_size: int, *, seed: int = 0, window: int = 512) -> Any:
    """A float32 model of the family with random weights, large enough that no two logits nearly tie."""
    import torch
    import transformers as tf

    common: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": window,
        "initializer_range": 0.4,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    config: Any
    if family == "llama":
        config = tf.LlamaConfig(**common, num_key_value_heads=2)
    elif family == "qwen3":
        config = tf.Qwen3Config(**common, num_key_value_heads=2, head_dim=8)
    elif family == "mistral":
        config = tf.MistralConfig(**common, num_key_value_heads=2, sliding_window=9)
    elif family == "gemma3":
        config = tf.Gemma3TextConfig(
            **common,
            num_key_value_heads=1,
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=7,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        )
    elif family == "gpt2":
        config = tf.GPT2Config(
            vocab_size=vocab_size,
            n_embd=32,
            n_layer=3,
            n_head=4,
            n_positions=window,
            initializer_range=0.4,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )
    elif family == "phi":
        config = tf.PhiConfig(**common)
    else:
        raise AssertionError(family)
    torch.manual_seed(seed)
    model: Any = tf.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Torch on one thread: the same sums in the same order, also on a busy machine."""
    import sys

    if "torch" in sys.modules:  # tests that never touch torch need not wait for it
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """Puts <s> before every text; no chat template."""
    return build_tokenizer()


@pytest.fixture(scope="session")
def chat_tokenizer() -> Any:
    """The same with a chat template."""
    return build_tokenizer(chat=True)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_folder("llama")`: a folder by save_pretrained with model and tokenizer, made once."""
    made: dict[tuple[str, bool], Path] = {}

    def folder(family: str, *, chat: bool = False) -> Path:
        key = (family, chat)
        if key not in made:
            tokenizer = build_tokenizer(bos=family not in WITHOUT_BOS, chat=chat)
            path = tmp_path_factory.mktemp(f"{family}-chat" if chat else family)
            build_model(family, len(tokenizer)).save_pretrained(path)
            tokenizer.save_pretrained(path)
            made[key] = path
        return made[key]

    return folder


@pytest.fixture(scope="session")
def tiny_loaded(tiny_folder: Callable[..., Path]) -> Callable[..., Any]:
    """`tiny_loaded("llama")`: a LoadedModel read from that folder in float32 on the CPU; do not change it."""
    from nbce_rag.models import load_model

    loaded: dict[tuple[str, bool], Any] = {}

    def load(family: str, *, chat: bool = False) -> Any:
        import torch

        torch.set_num_threads(1)
        key = (family, chat)
        if key not in loaded:
            loaded[key] = load_model(tiny_folder(family, chat=chat), device="cpu", dtype="float32")
        return loaded[key]

    return load


@pytest.fixture
def make_nbce(tiny_loaded: Callable[..., Any]) -> Callable[..., Any]:
    """`make_nbce("llama", fusion="mean", ...)`: an engine of its own (and KV store) on the shared model."""
    from nbce_rag.engine import NBCE

    def make(family: str = "llama", *, chat: bool = False, **options: Any) -> NBCE:
        return NBCE(tiny_loaded(family, chat=chat), **options)

    return make
