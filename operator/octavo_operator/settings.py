"""The settings of an installation, which no manifest makes: images, and the rates by which times are estimated."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True, slots=True)
class Rates:
    """Cautious speeds: a budget that is too long costs patience once, one that is too short kills a model that loads."""

    download_bytes_per_s: float = 50e6
    """Download from a hub or a bucket, over a network that others use too."""
    load_bytes_per_s: float = 100e6
    """Load from a volume into memory or onto a GPU."""
    start_on_gpu_s: float = 300
    """Device context, compiled kernels and CUDA graphs."""
    start_on_cpu_s: float = 20
    """Process start and packing of the weights."""
    tokens_per_s_on_gpu: float = 20
    """Tokens of one sequence in a full batch."""
    tokens_per_s_on_cpu: float = 10
    """Tokens of one sequence in a full batch."""


def _own_version() -> str:
    try:
        return version("octavo")
    except PackageNotFoundError:
        return "0.0.0"  # run from a folder that was never installed


@dataclass(frozen=True, slots=True)
class Settings:
    """Resolved once at start."""

    images: dict[str, str] = field(
        default_factory=lambda: {
            "octavo": "octavo/engine:0.1.0",
            "octavo-cuda": "octavo/engine:0.1.0-cuda",
            "vllm": "vllm/vllm-openai:v0.32.0",
        }
    )
    """Default images, by runtime and accelerator (`Runtime.images`); without one a service needs `engine.image`."""
    engine_env: dict[str, str] = field(default_factory=dict)
    """Variables of every engine and download that its service does not set: a package index, a hub, a proxy."""
    assigned_users: bool = False
    """The platform assigns the user of each pod from a range of the namespace's (OpenShift): pods name none."""
    operator_namespace: str = "octavo-system"
    """Namespace of the operator: a NetworkPolicy lets it read the queue."""
    engine_command: tuple[str, ...] = (sys.executable, "-m", "octavo_engine")
    """The command that runs the engine on this machine, without a cluster."""
    first_restart_pause_s: float = 1.0
    """The pause before a replica that died is started again, on this machine; it doubles with each failure."""
    version: str = field(default_factory=_own_version)
    """Version of the operator, and of the engine whose image is its default."""
    own_version: str = field(default_factory=_own_version)
    """Version of the operator in any case: `version` is an older one for a service whose image is pinned."""
    torch_on_cpu: bool = False
    """The engine for CPUs has torch, which then runs what the native executor does not; the default image has none."""
    rates: Rates = Rates()
    """Rates for the start-up budget and the drain."""
    longest_drain_s: int = 585  # with preStop and margin the 600 s for which the cluster autoscaler waits
    """The most that a drain takes unless the manifest requests more: beyond it the cluster autoscaler stops waiting
    (its --max-graceful-termination-sec defaults to ten minutes)."""
    shortest_drain_s: int = 30
    """Kubernetes' own default grace period."""

    @property
    def release(self) -> str:
        """The release as a word for people: it changes with the operator's version, default images and variables."""
        given = json.dumps([self.images, self.engine_env], sort_keys=True).encode()
        return f"{self.version}-{hashlib.sha256(given).hexdigest()[:6]}"
