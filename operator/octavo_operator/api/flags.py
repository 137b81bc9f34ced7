"""The engine's flags that a field of the API replaces: an argument that repeats one is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

# vLLM's spelling, which is also ours.
FIELD_OF_FLAG = {
    "--model": "spec.model.uri",
    "--revision": "spec.model.revision",
    "--file": "spec.model.file",
    "--served-model-name": "spec.model.servedNames",
    "--chat-template": "spec.model.chatTemplate",
    "--hf-token": "spec.model.credentials",
    "--tensor-parallel-size": "spec.engine.tensorParallelSize",
    "-tp": "spec.engine.tensorParallelSize",
    "--pipeline-parallel-size": "spec.engine.pipelineParallelSize",
    "-pp": "spec.engine.pipelineParallelSize",
    "--dtype": "spec.engine.dtype",
    "--max-model-len": "spec.engine.maxModelLen",
    "--max-num-seqs": "spec.engine.maxNumSeqs",
    "--max-num-batched-tokens": "spec.engine.maxNumBatchedTokens",
    "--gpu-memory-utilization": "spec.engine.gpuMemoryUtilization",
    "--block-size": "spec.engine.blockSize",
    "--swap-space": "spec.engine.swapSpace",
    "--enforce-eager": "spec.engine.enforceEager",
    "--enable-prefix-caching": "spec.engine.prefixCaching",
    "--quantization": "spec.engine.quantization",
    "-q": "spec.engine.quantization",
    "--kv-cache-dtype": "spec.engine.kvCacheDtype",
    "--api-key": "spec.auth.apiKeys",
    "--api-key-file": "spec.auth.apiKeys",
    "--shutdown-timeout": "spec.rollout.drainTimeout",
    "--port": "spec.service.port",
}
# Ours to decide: the Service and the probes rely on it. (`--host` is a person's: vLLM needs `--host=::` for IPv6.)
FIELD_OF_FLAG |= {"--uds": "spec.service"}


def canonical(arg: str) -> str:
    """The flag of an argument: `--max_model_len=4096` and `--no-enable-prefix-caching` lose their frills."""
    flag = arg.partition("=")[0]
    if flag.startswith("--"):
        flag = "--" + re.sub(r"^no-", "", flag[2:].replace("_", "-"))
    return flag


def repeated_fields(args: Sequence[object]) -> Iterator[tuple[int, str, str]]:
    """Index, flag and field of each argument that repeats a field."""
    for index, arg in enumerate(args):
        if isinstance(arg, str) and arg.startswith("-"):
            flag = canonical(arg.strip().partition(" ")[0])
            if flag in FIELD_OF_FLAG:
                yield index, flag, FIELD_OF_FLAG[flag]


def _pattern() -> str:
    words = [flag.removeprefix("--").replace("-", "[-_]") for flag in FIELD_OF_FLAG if flag.startswith("--")]
    short = [flag for flag in FIELD_OF_FLAG if not flag.startswith("--")]
    return f"^(--(no[-_])?({'|'.join(words)})|{'|'.join(short)})([= ].*)?$"


# What `repeated_fields` finds, for the API server: at each item, so that the item is named.
ARGUMENT_RULES = (
    {
        "rule": f"!self.matches(r'{_pattern()}')",
        "message": "repeats a field of this API: remove it and set the field of spec.model, spec.engine, spec.rollout,"
        " spec.auth or spec.service instead",
    },
    {
        "rule": "!self.matches(r'^-[^= ]* ')",
        "message": "is two arguments in one: write the flag and its value as two items",
    },
)
