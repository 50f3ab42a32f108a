"""Launches and waits up to the first token, counted on the pretended device: `python tests/gpu/launches.py`.

A tiny llama with as many layers as a model of 8B, ten passages; launches depend on the number of layers, not
on their size. The device is `strict_device.StrictDevice`, so that this runs anywhere, and tells no time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE)]

from strict_device import StrictDevice, Tally  # noqa: E402
from tiny_models import build_tokenizer  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from nbce_rag import NBCE, PassageKVStore  # noqa: E402
from nbce_rag.decoding.reader import read_prompts  # noqa: E402
from nbce_rag.fusion import Posterior  # noqa: E402
from nbce_rag.models.transformers.attention import use_grouped_attention  # noqa: E402
from nbce_rag.models.transformers.loading import wrap_model  # noqa: E402

PLACES = ("ferry", "mill", "tower", "market", "harbour", "school", "bridge", "inn", "forge", "farm")
PASSAGES = [
    " ".join(f"The {place} is run by Ada. It opens at {n}. It is old." for n in range(6)) for place in PLACES
]
QUESTION = "Who runs the ferry?"


def engine(layers: int, vocabulary: int, device: str) -> NBCE:
    """An engine over random weights of so many layers."""
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=max(vocabulary, len(tokenizer)),
        max_position_embeddings=1024,
        initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config).eval().to(device)
    use_grouped_attention(model)
    ready = wrap_model(model, tokenizer, name="random", weights="random", check=False)
    return NBCE(ready, kv_store=PassageKVStore(), max_tokens=8)


def first_token(device: StrictDevice, nbce: NBCE, focus: float, question: str) -> Tally:
    """Reading one question, up to the log-probs of its first token."""
    request = nbce.request(question, PASSAGES, fusion=Posterior(focus=focus))
    plan = nbce._engine.plan(request)
    with device.tally() as tally:
        read_prompts(nbce._engine, [request], [plan])
    return tally


def counts(layers: int = 32, vocabulary: int = 0) -> dict[str, Tally]:
    """Tallies of a first token: with nothing stored and from memory, without and with sentences."""
    with StrictDevice(float64=False) as device:
        nbce = engine(layers, vocabulary, "strict")
        return {
            "nothing stored": first_token(device, nbce, 0, QUESTION),
            "from memory": first_token(device, nbce, 0, "Who runs the mill?"),
            "from memory, sentences not": first_token(device, nbce, 0.5, QUESTION),
            "from memory, sentences too": first_token(device, nbce, 0.5, QUESTION),
        }


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument("--lines", action="store_true", help="where the processor waits")
    arguments = parser.parse_args()
    for name, tally in counts(arguments.layers, arguments.vocabulary).items():
        print(f"{name}: {tally.kernels} launches, {sum(tally.waits.values())} waits")
        if arguments.lines:
            for (what, where), count in tally.waits.most_common():
                print(f"    {count:4} {where} {what}")


if __name__ == "__main__":
    main()
