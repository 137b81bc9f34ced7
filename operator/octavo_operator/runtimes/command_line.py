"""The command line that octavo and vllm share, in vLLM's spelling.

What the plan was computed with is always passed, because defaults differ between images. Secrets never appear on it:
they come by environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from octavo_operator.runtimes.runtime import Start, Target

GIB = 1024**3
TAKES = frozenset(
    {
        "runtime",
        "image",
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "dtype",
        "max_model_len",
        "max_num_seqs",
        "max_num_batched_tokens",
        "min_concurrency",
        "gpu_memory_utilization",
        "block_size",
        "enforce_eager",
        "prefix_caching",
        "env",
    }
)
"""Fields of the engine section that both take with any value that the CRD admits."""


def target(of: Target) -> tuple[str, ...]:
    """Model, address and chat template."""
    listens = [] if of.host is None else ["--host", of.host]
    template = [] if of.chat_template is None else ["--chat-template", of.chat_template]
    return ("--model", of.model, *listens, "--port", str(of.port), *template)


def arguments(
    start: Start,
    *,
    takes_file: bool = False,
    takes_kv_cache_dtype: bool = False,
    takes_swap_space: bool = False,
    needs_gpu: Sequence[str] = (),
) -> tuple[str, ...]:
    """Everything but the target. `needs_gpu` are flags by which the engine exits where it cannot use a GPU."""
    engine = start.engine
    line: list[str] = ["--served-model-name", *start.served_names]

    def add(flag: str, value: object, unless: object = None) -> None:
        if value is not None and value != unless:
            line.extend([flag, f"{value:g}" if isinstance(value, float) else str(value)])

    add("--revision", start.revision)
    if takes_file:
        add("--file", start.file)
    add("--dtype", engine.dtype, unless="auto")
    add("--quantization", engine.quantization)
    add("--max-model-len", start.max_model_len)
    add("--max-num-seqs", start.max_num_seqs)
    add("--max-num-batched-tokens", start.max_num_batched_tokens)
    add("--block-size", engine.block_size)
    if takes_kv_cache_dtype:
        add("--kv-cache-dtype", engine.kv_cache_dtype, unless="auto")
    if start.on_gpu:
        line.extend(needs_gpu)
        add("--gpu-memory-utilization", engine.gpu_memory_utilization)
        add("--tensor-parallel-size", engine.tensor_parallel_size)
        add("--pipeline-parallel-size", engine.pipeline_parallel_size, unless=1)
        if takes_swap_space:
            add("--swap-space", float(engine.swap_space.value / Fraction(GIB)))
    else:
        add("--kv-cache-memory-bytes", start.kv_cache_bytes)
    if engine.enforce_eager:
        line.append("--enforce-eager")
    if not engine.prefix_caching:
        line.append("--no-enable-prefix-caching")
    add("--shutdown-timeout", start.drain_s)
    return tuple(line)
