"""Tiny models of the real architectures with random weights, and tokenizers; all made on the spot."""

from __future__ import annotations

from typing import Any

FAMILIES = ("llama", "qwen3", "mistral", "gemma3", "gpt2", "phi")
"""Causal language models that differ in what matters for rows: positions, key-value heads, windows, BOS."""

WITHOUT_BOS = ("qwen3", "gpt2", "phi")

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

TOOL_TEMPLATE = (
    "{{ bos_token }}{% if tools %}<|tools|>\n"
    "{% for t in tools %}{{ t['function']['name'] }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}"
    "{% for c in m.get('tool_calls', []) %}<tool_call>{{ c['function'] | tojson }}</tool_call>{% endfor %}"
    "{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""The same, but it knows tools and their calls."""

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
