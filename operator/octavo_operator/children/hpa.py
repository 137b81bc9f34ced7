"""The HorizontalPodAutoscaler: by the requests that wait, and by how full the replicas run.

It scales the Deployment, not the LLMService: replicas written through the latter's scale subresource would end up in
the manifest, where the next apply takes them back. Names are vLLM's with an underscore for the colon, as adapters of
Prometheus write them, so either source of metrics will do.
"""

from __future__ import annotations

from collections.abc import Sequence

from octavo_operator.children.child import Manifest, child
from octavo_operator.planner.plan import Plan
from octavo_operator.runtimes import RUNTIMES
from octavo_operator.runtimes.runtime import adapted

BUSY = 0.8  # share of maxNumSeqs, and of the KV cache
SHORTEST_STEP_S, LONGEST_STEP_S = 60, 600
SHORTEST_LULL_S, LONGEST_LULL_S = 300, 1800  # Kubernetes' own default; the longest lull that a GPU is kept idle for


def render(plan: Plan, name: str) -> Manifest:
    """A queue that has just emptied does not shrink the service while its replicas still run full.

    A replica is full by its sequences or by its KV cache, whichever comes first: long prompts fill the cache with a few
    sequences. Its use is measured rather than estimated from `maxModelLen`, which few requests come near.

    Nor does a lull that is shorter than a replica takes to load; and one replica ends at a time, so that the others are
    seen to bear its load first. Upwards replicas with GPUs at most double within the time that one takes to start: a
    burst that the next replica will absorb does not take all GPUs. On CPUs a replica starts within seconds, and what its
    start may take at most says little: there Kubernetes' own pace holds. `behavior` replaces what it names.
    """
    scale, metrics = plan.scale, RUNTIMES[plan.engine.runtime].metrics
    running = max(1, int(plan.limits.max_num_seqs * BUSY))
    spec: Manifest = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": plan.name},
        "minReplicas": scale.minimum,
        "maxReplicas": scale.maximum,
        "metrics": [
            _pods(metrics.waiting, str(scale.target_queue_depth or 1)),
            _pods(metrics.running, str(running)),
            _pods(metrics.kv_usage, f"{round(BUSY * 1000)}m"),
            *(dict(metric) for metric in scale.metrics),
        ],
    }
    lull = min(max(plan.lifecycle.expected, SHORTEST_LULL_S), LONGEST_LULL_S)
    scale_down = {
        "stabilizationWindowSeconds": lull,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
    }
    behavior: Manifest = {}
    if plan.hardware.gpus:
        step = min(max(plan.lifecycle.expected, SHORTEST_STEP_S), LONGEST_STEP_S)
        behavior["scaleUp"] = {
            "policies": [
                {"type": "Percent", "value": 100, "periodSeconds": step},
                {"type": "Pods", "value": 1, "periodSeconds": step},
            ],
        }
    spec["behavior"] = {**behavior, "scaleDown": scale_down, **(scale.behavior or {})}
    return child(plan, "autoscaling/v2", "HorizontalPodAutoscaler", name, spec)


def _pods(names: Sequence[str], average: str) -> Manifest:
    """A metric by its present name."""
    target = {"type": "AverageValue", "averageValue": average}
    return {"type": "Pods", "pods": {"metric": {"name": adapted(names[0])}, "target": target}}
