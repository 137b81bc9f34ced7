"""vLLM's environment variables: those with a meaning here become flags, the others are named in one line.

`VLLM_API_KEY` is read by `api_keys`. Variables that Kubernetes sets for a Service called vllm (`VLLM_PORT`,
`VLLM_SERVICE_HOST` …) are not vLLM's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from octavo_engine.errors import ConfigError

PREFIX = "VLLM_"
READ_ELSEWHERE = {"VLLM_API_KEY"}
# What they turn off is off: nothing is reported to anyone.
SATISFIED = {"VLLM_NO_USAGE_STATS", "VLLM_DO_NOT_TRACK", "VLLM_USAGE_SOURCE", "VLLM_USAGE_STATS_SERVER"}
# What they would have vLLM do, and why it is not done here.
NOT_DONE = {
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "a context longer than the model's own is refused: its positions were never trained",
    "VLLM_CONFIGURE_LOGGING": "logging is always configured; --log-level critical silences it",
    "VLLM_LOGGING_CONFIG_PATH": "no code is loaded by name; --log-format json logs objects for a collector",
}
SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?$")
LEVELS = ("debug", "info", "warning", "error", "critical")


def flags_of(environ: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The flags that stand for `environ`, to be put before those of the command line; and remarks, a line each.

    Raises:
        ConfigError: a variable has a value that can't be honoured; names it.
    """
    flags: list[str] = []
    ignored: list[str] = []
    for name in sorted(environ):
        value = environ[name].strip()
        if not name.startswith(PREFIX) or not value or name in READ_ELSEWHERE | SATISFIED or SERVICE_LINK.search(name):
            continue
        if name == "VLLM_LOGGING_LEVEL":
            flags.append(f"--log-level={_level(name, value)}")
        elif name == "VLLM_CPU_KVCACHE_SPACE":
            flags += _kv_space(name, value)
        elif name == "VLLM_SERVER_DEV_MODE":
            flags += _development(name, value)
        elif name == "VLLM_ALLOW_RUNTIME_LORA_UPDATING":
            flags += ["--enable-runtime-lora-updates"] if value.lower() in {"1", "true"} else []
        else:
            ignored.append(name)
    remarks = [f"the environment's {name} has no effect: {NOT_DONE[name]}" for name in ignored if name in NOT_DONE]
    names = ", ".join(name for name in ignored if name not in NOT_DONE)
    if names:
        remarks.append(f"{names}: set in the environment for vLLM, without a meaning here; no effect")
    return flags, remarks


def _level(name: str, value: str) -> str:
    if value.lower() not in LEVELS:
        raise ConfigError(f"the environment's {name} is {value!r}: set it to one of {', '.join(LEVELS).upper()}")
    return value.lower()


def _kv_space(name: str, value: str) -> list[str]:
    """GiB of KV blocks; 0 leaves it to the server, as in vLLM."""
    try:
        gib = float(value)
    except ValueError:
        gib = -1.0
    if not 0 <= gib < 1 << 20:
        raise ConfigError(f"the environment's {name} is {value!r}: set it to a number of GiB, such as 4")
    return [f"--kv-cache-memory-bytes={int(gib * 2**30)}"] if gib else []


def _development(name: str, value: str) -> list[str]:
    if value not in {"0", "1"}:
        raise ConfigError(f"the environment's {name} is {value!r}: set it to 0 or 1")
    return ["--enable-development-endpoints"] if value == "1" else []
