"""Groups over vLLM's own scheduler, with a worker that is made up: nothing is computed.

Runs where vLLM is, which `make vllm` sees to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM has an environment of its own; make vllm runs this there")

import torch
from gang_tools import STOP, Clock, Layout, Scheduled, Trial
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, ParallelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    SlidingWindowSpec,
)
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

import nbce_rag.vllm_plugin.gang as gang
from nbce_rag.vllm_plugin.entry import GroupProcessor
from nbce_rag.vllm_plugin.gang import GangMixin
from nbce_rag.vllm_plugin.host import check_host
from nbce_rag.vllm_plugin.scheduler import GangScheduler, PlainGangScheduler


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(gang, "time", clock)
    return clock


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a model that is never loaded."""
    from transformers import LlamaConfig

    path = tmp_path_factory.mktemp("llama")
    LlamaConfig(
        vocab_size=2000, hidden_size=64, num_attention_heads=2, architectures=["LlamaForCausalLM"]
    ).save_pretrained(path)
    return str(path)


class VllmBench:
    """A `gang_tools.Bench` over the scheduler that vLLM is started with."""

    def __init__(self, layout: Layout, model: ModelConfig) -> None:
        init_none_hash(sha256)
        self._hasher = get_request_block_hasher(layout.block, sha256)
        config = VllmConfig(
            scheduler_config=SchedulerConfig(
                max_num_seqs=layout.slots,
                max_num_batched_tokens=layout.budget,
                max_model_len=layout.window,
                enable_chunked_prefill=True,
                is_encoder_decoder=False,
                async_scheduling=layout.is_async,
            ),
            model_config=model,
            cache_config=CacheConfig(block_size=layout.block, enable_prefix_caching=True),
            parallel_config=ParallelConfig(),
            device_config=DeviceConfig("cpu"),
        )
        config.scheduler_config.async_scheduling = layout.is_async  # the platform has its own mind
        config.cache_config.num_gpu_blocks = layout.blocks
        config.cache_config.block_size = layout.block
        shape: dict[str, Any] = {
            "block_size": layout.block,
            "num_kv_heads": 1,
            "head_size": 1,
            "dtype": torch.float32,
        }
        groups = [KVCacheGroupSpec(["a"], FullAttentionSpec(**shape))]
        if layout.has_windows:
            groups.append(KVCacheGroupSpec(["b"], SlidingWindowSpec(**shape, sliding_window=64)))
        self.gangs: GangMixin = GangScheduler(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(
                num_blocks=layout.blocks, kv_cache_tensors=[], kv_cache_groups=groups
            ),
            structured_output_manager=StructuredOutputManager(config),
            block_size=layout.block,
            log_stats=False,
        )

    def add(self, id: str, prompt: Sequence[int], max_tokens: int, arguments: dict[str, Any] | None) -> None:
        params = SamplingParams(
            max_tokens=max_tokens, temperature=0, extra_args=arguments, stop_token_ids=[STOP], ignore_eos=True
        )
        params.update_from_generation_config({}, 2)
        self.gangs.add_request(
            Request(
                request_id=id,
                prompt_token_ids=list(prompt),
                sampling_params=params,
                pooling_params=None,
                block_hasher=self._hasher,
            )
        )

    def abort(self, ids: Sequence[str]) -> None:
        self.gangs.finish_requests(ids, RequestStatus.FINISHED_ABORTED)  # type: ignore[attr-defined]

    def has_requests(self) -> bool:
        return bool(self.gangs.has_requests())  # type: ignore[attr-defined]

    def schedule(self) -> Scheduled:
        output = self.gangs.schedule()
        computed = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        known = output.scheduled_cached_reqs
        computed |= dict(zip(known.req_ids, known.num_computed_tokens, strict=True))
        rows = {id: (computed[id], new) for id, new in output.num_scheduled_tokens.items()}
        return Scheduled(rows, output)

    def update(self, step: Scheduled, tokens: Mapping[str, int]) -> list[tuple[str, str]]:
        ids = list(step.rows)
        made = ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={id: place for place, id in enumerate(ids)},
            sampled_token_ids=[[tokens[id]] if id in tokens else [] for id in ids],
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
        )
        outputs = self.gangs.update_from_output(step.output, made).values()
        return [
            (one.request_id, one.stop_reason if isinstance(one.stop_reason, str) else str(one.finish_reason))
            for of_client in outputs
            for one in of_client.outputs or ()
            if one.finish_reason is not None
        ]


@pytest.fixture(scope="module")
def model(folder: str) -> ModelConfig:
    return ModelConfig(
        model=folder,
        dtype="float32",
        max_model_len=2048,
        skip_tokenizer_init=True,
        logprobs_mode="processed_logprobs",
    )


@pytest.mark.parametrize("block", range(10))
@pytest.mark.parametrize(
    ("depth", "is_async"),
    [(1, False), (2, True), (2, False), (3, True)],
    ids=["plain", "async", "pp2", "async3"],
)
def test_groups_at_random(block: int, depth: int, is_async: bool, clock: Clock, model: ModelConfig) -> None:
    for seed in range(25 * block, 25 * block + 25):
        trial = Trial(seed, clock, depth=depth, is_async=is_async)
        trial.run(VllmBench(trial.layout, model))


def test_the_scheduler_is_of_the_engines_kind(model: ModelConfig) -> None:
    layout = Layout(slots=16, budget=64, blocks=400)
    assert type(VllmBench(layout, model).gangs) is PlainGangScheduler
    layout = Layout(slots=16, budget=64, blocks=400, is_async=True)
    assert type(VllmBench(layout, model).gangs) is GangScheduler


def test_both_runners_take_the_processor() -> None:
    from vllm.v1.sample.logits_processor import _load_logitsprocs_by_fqcns
    from vllm.v1.worker.gpu.sample.logits_processor.loader import _load_v2_logitsprocs_by_fqcns

    name = f"{GroupProcessor.__module__}:{GroupProcessor.__name__}"
    assert _load_logitsprocs_by_fqcns([name]) == [GroupProcessor]
    assert _load_v2_logitsprocs_by_fqcns([name]) == [GroupProcessor]


def test_a_server_as_it_is_told_in_the_docs_may_start(model: ModelConfig) -> None:
    config = VllmConfig(
        model_config=model,
        scheduler_config=SchedulerConfig(
            max_model_len=2048,
            is_encoder_decoder=False,
            scheduler_cls=f"{GangScheduler.__module__}.{GangScheduler.__name__}",
        ),
    )
    check_host(config, GangMixin)
