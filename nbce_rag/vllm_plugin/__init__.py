"""What runs inside vLLM: a logits processor that fuses the rows of a group, and a scheduler that keeps them
in step.

Both are named to an unmodified vLLM of one minor version (`nbce_rag.vllm_plugin.host`):

    vllm serve MODEL --scheduler-cls nbce_rag.vllm_plugin.scheduler.GangScheduler \\
        --logprobs-mode processed_logprobs

The processor is found by itself (entry point `vllm.logits_processors`). What it is told and what it answers
is in `nbce_rag.models.vllm.wire`. `entry` and `scheduler` import vLLM, the rest does not.
"""
