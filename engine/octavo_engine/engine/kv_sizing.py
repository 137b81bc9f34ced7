"""The memory of KV blocks and swap space, the longest context, and the resulting number of blocks.

Pure except for the container's limit and the machine's free memory. Refusals are ConfigErrors that name the flag.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from octavo_engine.core.capacity import longest_sequence, split_blocks, split_capacity
from octavo_engine.core.memory_limit import available_memory, container_limit
from octavo_engine.errors import ConfigError
from octavo_models.adapter_modules import adapter_elements
from octavo_models.spec import ModelSpec

if TYPE_CHECKING:
    from octavo_engine.config import EngineConfig
    from octavo_engine.executors.executor import Capacity
    from octavo_models.outline import Model

logger = logging.getLogger(__name__)

GIB = 1 << 30
MODEST_KV_BYTES = 4 * GIB  # what is taken at most where no size was set
MODEST_SHARE = 0.25  # and at most this share of what the machine has to spare
GPU_SWAP_GIB = 4.0  # beside a GPU; on a CPU swap space is memory that the blocks themselves could have had


def swap_bytes_of(config: EngineConfig, capacity: Capacity) -> int:
    """Bytes of host memory for swapped blocks, of each rank.

    As set by the user, else as much as in vLLM beside a GPU, but at most half of what the container has left.

    Raises:
        ConfigError: the container, or the machine, has less than what was set.
    """
    asked = config.cache.swap_space_gib
    if capacity.kv_bytes is None:  # on a CPU it is counted with the KV blocks
        return int((asked or 0.0) * GIB)
    container = container_limit()
    left = available_memory() if container is None else max(0, container.limit - container.used)
    if asked is None:
        most = left // 2 // capacity.sharers
        return min(int(GPU_SWAP_GIB * GIB), most) if left or container else int(GPU_SWAP_GIB * GIB)
    wanted = int(asked * GIB) * capacity.sharers
    if wanted > left and (left or container):
        raise ConfigError(
            f"--swap-space {asked:g} takes {wanted / GIB:.2f} GiB of host memory"
            + (f" over {capacity.sharers} ranks" if capacity.sharers > 1 else "")
            + f", and {left / GIB:.2f} GiB are left of "
            + ("this machine's" if container is None else f"the container's limit of {container.limit / GIB:.2f} GiB")
            + ": lower it, or provide more memory"
        )
    return int(asked * GIB)


def adapter_bytes_of(config: EngineConfig, capacity: Capacity, spec: Model | None) -> int:
    """Bytes for low-rank adapters on a CPU, as many and of as high a rank as they may be. A GPU's are the executor's own.

    They are held as KV elements are: in float32 for a model in float32, else in bfloat16.
    """
    if not config.adapters.enabled or capacity.kv_bytes is not None or not isinstance(spec, ModelSpec):
        return 0
    plain = spec.dtype == "float32" and spec.quantization is None
    size = 4 if config.model.dtype == "float32" or (config.model.dtype == "auto" and plain) else 2
    return size * config.adapters.max_cpu_loras * adapter_elements(spec, config.adapters.max_lora_rank)


def kv_bytes_of(config: EngineConfig, capacity: Capacity, kept_bytes: int) -> int:
    """Bytes for KV blocks: what the user said, what the executor found, or a share of the container's memory.

    `kept_bytes` are those of swap space and adapters on a CPU.
    """
    cache = config.cache
    if cache.num_gpu_blocks_override is not None:
        return 0  # blocks are counted instead
    if cache.kv_cache_memory_bytes is not None:
        return cache.kv_cache_memory_bytes
    if capacity.kv_bytes is not None:
        return capacity.kv_bytes
    container = container_limit()
    if container is None:
        return min(MODEST_KV_BYTES, int(available_memory() * MODEST_SHARE) or MODEST_KV_BYTES) // capacity.sharers
    # The weights have been read and packed, but the control group's counter may lag behind.
    taken = max(container.used, capacity.weight_bytes)
    left = int(container.limit * cache.gpu_memory_utilization) - taken - kept_bytes * capacity.sharers
    if left <= 0:
        raise ConfigError(
            f"no memory is left for the KV cache: the container's limit is {container.limit / GIB:.2f} GiB, of which "
            f"--gpu-memory-utilization allows {cache.gpu_memory_utilization:.0%}, and {taken / GIB:.2f} GiB are taken "
            "(weights included)"
            + (
                f", and {kept_bytes * capacity.sharers / GIB:.2f} GiB are --swap-space and adapters"
                if kept_bytes
                else ""
            )
            + ": raise the limit, or choose a smaller model"
        )
    return left // capacity.sharers


def is_promised(config: EngineConfig) -> bool:
    """True if the size of the KV cache was set, by flag or by the container's limit, rather than guessed."""
    cache = config.cache
    return (cache.kv_cache_memory_bytes or cache.num_gpu_blocks_override or container_limit()) is not None


def check_memory(kv_bytes: int, capacity: Capacity) -> None:
    """Refuse KV blocks that this machine or container can't hold: touching them, the kernel would kill the process."""
    container, here = container_limit(), kv_bytes * capacity.sharers
    weights = capacity.weight_bytes * capacity.sharers
    if container is not None and weights + here > container.limit:
        there_is = (
            f"the container's limit is {container.limit / GIB:.2f} GiB, and the weights take {weights / GIB:.2f} GiB"
        )
    elif 0 < (available := available_memory()) < here:
        there_is = f"this machine has {available / GIB:.2f} GiB available"
    else:
        return
    raise ConfigError(
        f"the KV cache and swap space take {here / GIB:.2f} GiB, and {there_is}: set a smaller "
        "--kv-cache-memory-bytes or --swap-space, or provide more memory"
    )


def check_max_model_len(config: EngineConfig, spec: Model | None) -> None:
    """Refuse a length that is known to be too long before the weights are read."""
    asked = config.model.max_model_len
    longest = spec.max_position if spec else None
    if asked is None and longest is None:
        raise ConfigError("the model's context length is unknown: give it with --max-model-len")
    if asked is not None and longest is not None and asked > longest:
        raise ConfigError(f"--max-model-len {asked} is more than the {longest} tokens that this model was made for")


def max_model_len_of(config: EngineConfig, capacity: Capacity, kv_bytes: int, spec: Model | None) -> int:
    """The length asked for, or the model's own, or as much of it as fits."""
    asked = config.model.max_model_len
    longest = spec.max_position if spec else None
    if asked is not None:
        return asked
    assert longest is not None, "checked before the weights were loaded"
    layout, batched = capacity.layout, config.scheduler.max_num_batched_tokens
    override = config.cache.num_gpu_blocks_override
    if not layout.groups:
        return longest
    if override is None:
        fits = longest_sequence(layout, kv_bytes, longest, batched)
    else:
        fits = longest if layout.groups[0].window is not None else min(longest, (override - 1) * layout.block_size)
    if 0 < fits < longest:
        logger.warning(
            "the model's context is %d tokens, and KV blocks for %d fit: --max-model-len is %d; "
            "give it more memory with --kv-cache-memory-bytes",
            longest,
            fits,
            fits,
        )
        return fits
    return longest


def num_blocks_of(config: EngineConfig, capacity: Capacity, kv_bytes: int, max_model_len: int) -> tuple[int, ...]:
    scheduler = config.scheduler
    override = config.cache.num_gpu_blocks_override
    if override is not None and capacity.layout.groups:
        return split_blocks(capacity.layout, override, max_model_len, scheduler.max_num_batched_tokens)
    return split_capacity(
        capacity.layout, kv_bytes, max_model_len, scheduler.max_num_batched_tokens, scheduler.max_num_seqs
    )


def num_host_blocks_of(swap_bytes: int, num_blocks: tuple[int, ...], kv_bytes: int) -> tuple[int, ...]:
    """Blocks of each group in host memory, in the device's proportions; none where nothing is swapped."""
    if not swap_bytes:
        return ()
    return tuple(n * swap_bytes // kv_bytes + 1 for n in num_blocks)  # and block 0, the null block
