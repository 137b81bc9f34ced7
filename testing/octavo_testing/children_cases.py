"""The plans and children that tests of children share: the samples' plans, and children by kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from octavo_operator.api.manifest import read_manifest
from octavo_operator.api.observed import Observed
from octavo_operator.api.v1alpha1 import LLMService
from octavo_operator.children import Manifest, render
from octavo_operator.planner import Plan, plan
from octavo_operator.settings import Settings
from octavo_testing.planner_cases import LLAMA_70B, MISTRAL_7B, SMALL, described, service

SAMPLES = Path(__file__).parents[2] / "config" / "samples"
CASES = {
    "smollm2": ("smollm2.yaml", None, SMALL),
    "mistral": ("mistral.yaml", None, MISTRAL_7B),
    "mistral-autoscaled": ("mistral-autoscaled.yaml", None, MISTRAL_7B),
    "two-models-mistral": ("two-models.yaml", "vllm-mistral-7b", MISTRAL_7B),
    "two-models-llama": ("two-models.yaml", "vllm-llama-70b", LLAMA_70B),
    "chat": ("chat.yaml", None, SMALL),
    "phi-2": ("phi-2.yaml", None, None),
}


def sample(case: str) -> tuple[LLMService, dict[str, Any] | None]:
    file, name, config = CASES[case]
    return read_manifest(SAMPLES / file).service(name), config


def planned(of: LLMService, config: dict[str, Any] | None = None, **observed: Any) -> Plan:
    observed.setdefault("service_monitors", True)
    return plan(of, Observed(None if config is None else described(config), **observed), Settings())


def rendered_sample(case: str) -> tuple[Manifest, ...]:
    return render(planned(*sample(case)))


def rendered(**spec: Any) -> tuple[Manifest, ...]:
    """The children of a service with this spec, whose model is small."""
    observed = spec.pop("observed", {})
    return render(planned(service(**spec), SMALL, **observed))


def only(children: tuple[Manifest, ...], kind: str, name: str | None = None) -> Manifest:
    """The one child of this kind (and name); a Service without a name is the one that clients use."""
    found = [each for each in children if each["kind"] == kind and name in {None, each["metadata"]["name"]}]
    if kind == "Service" and name is None:
        found = [each for each in found if "clusterIP" not in each["spec"]]
    assert len(found) == 1, [(each["kind"], each["metadata"]["name"]) for each in children]
    return found[0]


def kinds(children: tuple[Manifest, ...]) -> list[str]:
    return [each["kind"] for each in children]


def pod_of(children: tuple[Manifest, ...]) -> Manifest:
    return only(children, "Deployment")["spec"]["template"]["spec"]


def terms_of(pod: Manifest) -> list[list[Manifest]]:
    """The terms of which a node must meet one, each a list of expressions."""
    required = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return [term["matchExpressions"] for term in required["nodeSelectorTerms"]]


def engine_of(children: tuple[Manifest, ...]) -> Manifest:
    (container,) = [each for each in pod_of(children)["containers"] if each["name"] == "engine"]
    return container
