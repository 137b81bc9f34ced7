"""A replica's times from start to end: the start-up budget, the probes, and drain and grace as one chain.

expected   start + size ÷ load rate (+ size ÷ download rate, where the pod itself downloads); 30 min if unknown
start-up   a day, where the engine ends a start that makes no progress by itself; else what is expected
drain      rollout.drainTimeout, else maxModelLen ÷ the slowest tokens/s of a sequence, within 30 s and 585 s: the grace is 10 min
grace      pre-stop + drain + margin
"""

from __future__ import annotations

import math

from octavo_operator.planner.plan import Hardware, Lifecycle, Probe
from octavo_operator.planner.sizes import round_up
from octavo_operator.runtimes.runtime import Runtime
from octavo_operator.settings import Settings

UNKNOWN_STARTUP_S = 1800
SHORTEST_STARTUP_S = 120
LONGEST_STARTUP_S = 24 * 3600
UNKNOWN_LENGTH = 4096
PRE_STOP_S = 5  # endpoints and their watchers follow within a second or two; proxies a little later
MARGIN_S = 10  # between the engine's own deadline and the kubelet's SIGKILL


def expected_startup(model_bytes: int | None, *, downloads: bool, hardware: Hardware, settings: Settings) -> int:
    """Seconds that a replica is expected to take until it answers."""
    if model_bytes is None:
        return UNKNOWN_STARTUP_S
    rates = settings.rates
    seconds = rates.start_on_gpu_s if hardware.gpus else rates.start_on_cpu_s
    seconds += model_bytes / rates.load_bytes_per_s
    if downloads:
        seconds += model_bytes / rates.download_bytes_per_s
    return max(SHORTEST_STARTUP_S, round_up(math.ceil(seconds), 10))


def longest_generation(max_model_len: int | None, hardware: Hardware, settings: Settings) -> int:
    """Seconds that the longest admissible answer takes in a full batch."""
    rate = settings.rates.tokens_per_s_on_gpu if hardware.gpus else settings.rates.tokens_per_s_on_cpu
    return math.ceil((max_model_len or UNKNOWN_LENGTH) / rate)


def drain_time(longest: int, wanted: float | None, settings: Settings) -> int:
    """Seconds that a replica which ends may finish its requests."""
    if wanted is not None:
        return math.ceil(wanted)
    return min(max(longest, settings.shortest_drain_s), settings.longest_drain_s)


def lifecycle(expected: int, drain: int, runtime: Runtime) -> Lifecycle:
    """The probes and the chain of deadlines. A start that the engine watches itself is left to it.

    Liveness waits a minute: the health path is the engine's heartbeat, and a restart costs a whole load.
    """
    period = 5 if expected <= 600 else 10
    startup = LONGEST_STARTUP_S if runtime.watches_start else expected
    return Lifecycle(
        expected=expected,
        startup=Probe(runtime.health, period, 5, math.ceil(startup / period)),
        readiness=Probe(runtime.health, 5, 5, 2),
        liveness=Probe(runtime.health, 10, 10, 6),
        pre_stop=PRE_STOP_S,
        drain=drain,
        grace=PRE_STOP_S + drain + MARGIN_S,
    )
