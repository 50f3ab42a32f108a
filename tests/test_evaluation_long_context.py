from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_tools import write_jsonl
from transformers import AutoConfig, AutoModelForCausalLM

from nbce_rag.decoding.plan import plan_rows
from nbce_rag.errors import ContextLengthError, InputError
from nbce_rag.evaluation import evaluate
from nbce_rag.evaluation.methods.long_context import LongContext
from nbce_rag.fusion import MinEntropy
from nbce_rag.models.transformers.rope import Stretched, why_not
from nbce_rag.passages import Passage
from nbce_rag.prompts.encoder import PromptEncoder

PLAIN = {"fusion": MinEntropy(beta=0.0, eta=0.0, top_p=1.0), "max_tokens": 6}


def passages(count: int) -> list[Passage]:
    return [
        Passage(f"The market of town {i} opens at eight and sells fish, bread and apples.")
        for i in range(count)
    ]


def frequencies(model: Any, name: str = "inv_freq") -> torch.Tensor:
    [found] = [tensor for key, tensor in model.named_buffers() if key.endswith(f".{name}")]
    return torch.as_tensor(found)


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi"])
@pytest.mark.parametrize("kind", ["dynamic", "yarn"])
def test_frequencies_are_those_of_the_formulas(
    tiny_loaded: Callable[..., Any], family: str, kind: str
) -> None:
    loaded = tiny_loaded(family)
    before = frequencies(loaded.model).clone()
    factor, window = 3.0, loaded.window
    stretched = Stretched(loaded, kind).to(3 * window, factor)
    after = frequencies(stretched.model)
    dim = 2 * len(before)
    expected = []
    for i in range(len(before)):
        plain = 10000 ** (-2 * i / dim)
        if kind == "dynamic":  # the base grows by scale^(d / (d - 2))
            expected.append((10000 * factor ** (dim / (dim - 2))) ** (-2 * i / dim))
            continue

        def dimension(rotations: float) -> float:  # that turns this often within the window
            return dim * math.log(window / (rotations * 2 * math.pi)) / (2 * math.log(10000))

        low, high = max(math.floor(dimension(32)), 0), min(math.ceil(dimension(1)), dim - 1)
        ramp = min(1.0, max(0.0, (i - low) / ((high - low) or 0.001)))
        expected.append(plain / factor * ramp + plain * (1 - ramp))
    assert after.tolist() == pytest.approx(expected, rel=1e-5)
    [rotary] = [module for module in stretched.model.modules() if hasattr(module, "rope_type")]
    scale = 1.0 if kind == "dynamic" else 0.1 * math.log(factor) + 1
    assert rotary.attention_scaling == pytest.approx(scale)
    torch.testing.assert_close(
        frequencies(loaded.model), before, rtol=0, atol=0
    )  # the model itself is as it was
    shared = dict(loaded.model.named_parameters())
    assert all(tensor is shared[name] for name, tensor in stretched.model.named_parameters())


def test_only_layers_that_see_everything_are_stretched(tiny_loaded: Callable[..., Any]) -> None:
    loaded = tiny_loaded("gemma3")
    stretched = Stretched(loaded, "yarn").to(2 * loaded.window, 2.0)
    for layers, same in (("sliding_attention", True), ("full_attention", False)):
        one, other = (frequencies(m, f"{layers}_inv_freq") for m in (loaded.model, stretched.model))
        assert torch.equal(one, other) is same


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("kind", ["dynamic", "yarn"])
def test_a_long_row_gives_the_tokens_of_one_plain_pass(
    make_nbce: Callable[..., Any], tiny_folder: Callable[..., Path], family: str, kind: str
) -> None:
    nbce = make_nbce(family)
    request = nbce.request("When does the market of town 3 open?", passages(26), passages_per_row=26, **PLAIN)
    with pytest.raises(ContextLengthError):
        nbce.batch([request])
    long = LongContext(nbce, kind)
    length = nbce.window_needed(request)
    assert nbce.model.window < length < 2 * nbce.model.window
    [answer] = long.batch([request])
    # The reference: transformers' own model, told of the stretch when it is made, without any cache.
    factor = length / nbce.model.window
    config = AutoConfig.from_pretrained(tiny_folder(family))
    rope = config.rope_parameters
    rope.get("full_attention", rope).update(
        rope_type=kind,
        factor=1.0 if kind == "dynamic" else factor,
        original_max_position_embeddings=nbce.model.window,
    )
    plain: Any = AutoModelForCausalLM.from_pretrained(tiny_folder(family), config=config, dtype=torch.float32)
    encoder = PromptEncoder(nbce.prompt, nbce.model.tokenizer)
    plan = plan_rows(encoder, request.question, request.passages, request.options, 4 * nbce.model.window)
    ids = [*plan.rows[1].context, *plan.suffix.ids]
    prompt = len(ids)
    for _ in range(6):
        # Read as if it had its full length already: dynamic NTK takes its scale from that.
        padded = torch.tensor([[*ids, *[0] * (length - len(ids))]])
        with torch.no_grad():
            logits = plain(input_ids=padded, use_cache=False).logits[0, len(ids) - 1]
        token = int(logits.argmax())
        if token in nbce.model.eos_ids:
            break
        ids.append(token)
    said = nbce.model.tokenizer.decode(ids[prompt:]).strip()
    # A character that is cut off at the end is not shown.
    assert answer.text.rstrip("\ufffd") == said.split("\n")[0].strip().rstrip("\ufffd")
    assert answer.text


def test_what_fits_is_left_alone_unless_a_factor_is_given(make_nbce: Callable[..., Any]) -> None:
    nbce = make_nbce()
    request = nbce.request("When does the market open?", passages(4), passages_per_row=4, **PLAIN)
    for kind in ("dynamic", "yarn"):
        [same] = LongContext(nbce, kind).batch([request])
        assert same.tokens == nbce.batch([request])[0].tokens
        [other] = LongContext(nbce, kind, 4.0).batch([request])
        assert [t.logprob for t in other.tokens] != [t.logprob for t in same.tokens]


def test_a_factor_bounds_the_length(make_nbce: Callable[..., Any]) -> None:
    nbce = make_nbce()
    request = nbce.request("When does the market open?", passages(60), passages_per_row=60, **PLAIN)
    with pytest.raises(ContextLengthError, match="has room for"):
        LongContext(nbce, "yarn", 2.0).batch([request])


def test_models_that_cannot_say_why(tiny_loaded: Callable[..., Any]) -> None:
    assert why_not(tiny_loaded("llama")) is None
    assert "has no rotary positions" in (why_not(tiny_loaded("gpt2")) or "")
    with pytest.raises(InputError, match="has no rotary positions"):
        Stretched(tiny_loaded("gpt2"), "yarn")


def test_in_an_evaluation(make_nbce: Callable[..., Any], tmp_path: Path) -> None:
    ctxs = [{"id": str(i), "text": p.text} for i, p in enumerate(passages(26))]
    records = [
        {"question": f"When does town {i} open?", "answers": ["at eight"], "ctxs": ctxs} for i in (1, 2)
    ]
    questions = write_jsonl(tmp_path / "q.jsonl", records)
    methods = "concat,concat-ntk,concat-yarn(factor=3),concat-yarn(factor=1.1)"
    options: dict[str, Any] = {"methods": methods, "k": 26, "max_tokens": 4}
    report = evaluate(None, questions, model=make_nbce(), log=tmp_path / "log", **options)
    assert [scores["did_not_fit"] for scores in report["methods"].values()] == [2, 0, 0, 2]
    assert report["methods"]["concat-yarn(factor=3)"]["parameters"]["factor"] == 3
    assert report["methods"]["concat-ntk"]["prompt_tokens"] > 512
    other = evaluate(None, questions, model=make_nbce("gpt2"), log=tmp_path / "other", **options)
    assert "has no rotary positions" in other["methods"]["concat-ntk"]["unavailable"]
    assert other["methods"]["concat-ntk"]["answer_found"] is None
    assert other["methods"]["concat"]["did_not_fit"] == 2
    kinds = [json.loads(line)["type"] for line in (tmp_path / "other").read_text().splitlines()]
    assert kinds.count("answer") == 2
