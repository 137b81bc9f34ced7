"""The labels of `vllm:cache_config_info`: every field of vLLM 0.32's cache configuration (vllm/config/cache.py).

A field without a counterpart here has the value that vLLM's has where the feature is not used. Fields that vLLM has removed
and dashboards still read are kept.
"""

from __future__ import annotations

from octavo_engine.config import CacheConfig
from octavo_engine.messages import Ready

NOT_USED = {
    "attn_group_size": "None",
    "cache_dtype": "auto",
    "calculate_kv_scales": "False",
    "cpu_offload_gb": "0",
    "effective_attention_block_size": "None",
    "enable_mamba_fine_grained_prefix_cache": "False",
    "is_attention_free": "False",
    "kv_cache_dtype_skip_layers": "[]",
    "kv_cache_layout": "None",
    "kv_offloading_backend": "native",
    "kv_offloading_size": "None",
    "kv_sharing_fast_prefill": "False",
    "mamba_block_size": "None",
    "mamba_cache_dtype": "auto",
    "mamba_cache_mode": "none",
    "mamba_page_size_padded": "None",
    "mamba_ssm_cache_dtype": "auto",
    "num_cpu_blocks": "0",
    "prefix_cache_retention_interval": "0",
    "prefix_caching_hash_algo": "sha256",
    "prefix_match_unit": "None",
    "replayssm_buffer_len": "16",
    "skip_page_size_padded": "None",
    "sliding_window": "None",
    "use_kda_recoverssm": "False",
    "use_replayssm": "False",
    "user_specified_block_size": "False",
    "user_specified_mamba_block_size": "False",
}


def cache_info(cache: CacheConfig, ready: Ready) -> dict[str, str]:
    """The labels for an engine that has started."""
    num_tokens = min(ready.num_blocks, default=0) * ready.block_size
    return {
        **NOT_USED,
        "block_size": str(ready.block_size),
        "num_gpu_blocks": str(ready.num_blocks[0] if ready.num_blocks else 0),
        "kv_cache_memory_bytes": str(ready.kv_cache_bytes),
        "gpu_memory_utilization": str(cache.gpu_memory_utilization),
        "enable_prefix_caching": str(cache.enable_prefix_caching),
        "num_gpu_blocks_override": str(cache.num_gpu_blocks_override),
        "swap_space": str(cache.swap_space_gib),
        "kv_cache_size_tokens": str(num_tokens),
        "kv_cache_max_concurrency": f"{num_tokens / max(1, ready.max_model_len):.2f}",
    }
