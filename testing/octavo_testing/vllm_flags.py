"""The flags of `vllm serve` 0.32 that the operator may render, as a parser that takes what vLLM's own would take.

Facts of vLLM's argument definitions: names, whether a flag takes a value, and which values. A flag that vLLM has removed
is absent, and therefore an error here as it is there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

VALUES: dict[str, Callable[[str], object]] = {
    "--model": str,
    "--revision": str,
    "--host": str,
    "--port": int,
    "--chat-template": str,
    "--quantization": str,
    "--max-model-len": lambda text: text if text == "auto" else int(text),
    "--max-num-seqs": int,
    "--max-num-batched-tokens": int,
    "--block-size": int,
    "--gpu-memory-utilization": float,
    "--kv-cache-memory-bytes": int,
    "--tensor-parallel-size": int,
    "--pipeline-parallel-size": int,
    "--shutdown-timeout": int,
    "--seed": int,
}
CHOICES = {
    "--dtype": ("auto", "half", "float16", "bfloat16", "float", "float32"),
    "--kv-cache-dtype": ("auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"),
}
SWITCHES = ("--enforce-eager", "--enable-prefix-caching")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise ValueError(message)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The options of a command line behind `vllm serve`. Raises ValueError with argparse's message."""
    parser = _Parser(prog="vllm serve", allow_abbrev=False)
    parser.add_argument("--served-model-name", nargs="+")
    for name, kind in VALUES.items():
        parser.add_argument(name, type=kind)
    for name, choices in CHOICES.items():
        parser.add_argument(name, choices=choices)
    for name in SWITCHES:
        parser.add_argument(name, action=argparse.BooleanOptionalAction)
    return parser.parse_args(list(words))
