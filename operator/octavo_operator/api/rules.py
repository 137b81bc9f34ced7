"""Rules between the fields of one type, each with its CEL twin for the CRD.

A rule reads the raw mapping, so that its finding is reported with those about single fields; what it can't
read, because a field has the wrong type, it leaves to that field's own problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from octavo_operator.api.base import Strict
from octavo_operator.api.engine import Engine, EnvSource, EnvVar
from octavo_operator.api.flags import repeated_fields
from octavo_operator.api.model import ChatTemplate
from octavo_operator.api.placement import Accelerator, Cache, Resources
from octavo_operator.api.quantity import Quantity
from octavo_operator.api.traffic import Autoscaling
from octavo_operator.api.v1alpha1 import Spec

Raw = Mapping[str, Any]
REPLICAS = 1  # the schema's default; the same value in a manifest cannot be distinguished from it
Finding = tuple[str, str, str | None]  # the field within the mapping ("args.2"), what is wrong, what to do


@dataclass(frozen=True, slots=True)
class Cel:
    """A rule in the API server's language: what must hold, what to do where it doesn't, and the field that is blamed."""

    rule: str
    message: str
    field: str | None = None

    def validation(self) -> dict[str, str]:
        """An entry of x-kubernetes-validations."""
        where = {} if self.field is None else {"fieldPath": f".{self.field}"}
        return {"rule": self.rule, "message": self.message, **where}


@dataclass(frozen=True, slots=True)
class Rule:
    """`check` yields findings; `twins` express the same to the API server, as far as CEL can."""

    check: Callable[[Raw], Iterator[Finding]]
    twins: tuple[Cel, ...] = ()


def _min_and_max(raw: Raw) -> Iterator[Finding]:
    low, high = raw.get("minReplicas", 1), raw["maxReplicas"]
    if low > high:
        yield "minReplicas", f"{low} is more than maxReplicas, {high}", f"raise maxReplicas to {low} at least"


def _replicas_or_autoscaling(raw: Raw) -> Iterator[Finding]:
    if raw.get("replicas") not in {None, REPLICAS} and raw.get("autoscaling") is not None:
        yield "replicas", "is set beside autoscaling, which decides it", "remove one of the two"


def _batch_holds_all(raw: Raw) -> Iterator[Finding]:
    tokens, seqs = raw.get("maxNumBatchedTokens"), raw.get("maxNumSeqs")
    if tokens is not None and seqs is not None and tokens < seqs:
        reason = f"{tokens} is less than maxNumSeqs, {seqs}: each running sequence needs a token a step"
        yield "maxNumBatchedTokens", reason, f"raise it to {seqs} at least"


def _no_repeats(raw: Raw) -> Iterator[Finding]:
    args = raw.get("args", [])
    for index, arg in enumerate(args):
        if isinstance(arg, str) and arg.startswith("-") and " " in arg.strip().partition("=")[0]:
            flag, _, value = arg.strip().partition(" ")
            yield f"args.{index}", f"{arg!r} is two arguments in one", f'write "{flag}" and "{value.strip()}" apart'
    for index, flag, field in repeated_fields(args):
        yield f"args.{index}", f"{flag} repeats a field of this API", f"set {field} instead"


def _claim_or_size(raw: Raw) -> Iterator[Finding]:
    if raw.get("existingClaim") is None:
        return
    for field in ("size", "storageClassName", "accessMode"):
        if raw.get(field) is not None:
            yield field, "is set beside existingClaim, whose own it is", "remove one of the two"
    if raw.get("retain"):
        yield "retain", "an existing claim is never deleted", "remove it"


def _requests_within_limits(raw: Raw) -> Iterator[Finding]:
    limits = raw.get("limits") or {}
    for name, request in (raw.get("requests") or {}).items():
        if name in limits and Quantity.parse(request) > Quantity.parse(limits[name]):
            yield f"requests.{name}", f"{request} is more than the limit, {limits[name]}", "raise the limit"


def _no_gpus(raw: Raw) -> Iterator[Finding]:
    for part in ("requests", "limits"):
        for name in raw.get(part) or {}:
            if "/gpu" in name:
                yield (
                    f"{part}.{name}",
                    "the number of GPUs follows from the parallel sizes",
                    "set spec.engine.tensorParallelSize instead",
                )


def _no_products_of_a_cpu(raw: Raw) -> Iterator[Finding]:
    if raw.get("vendor") == "cpu":
        for field in ("products", "resourceName"):
            if raw.get(field):
                yield field, "names GPUs, and vendor: cpu has none", "remove one of the two"


def _no_split_on_a_cpu(raw: Raw) -> Iterator[Finding]:
    if (raw.get("accelerator") or {}).get("vendor") != "cpu":
        return
    for field in ("tensorParallelSize", "pipelineParallelSize"):
        if (raw.get("engine") or {}).get(field, 1) > 1:
            yield f"engine.{field}", "splits a model across GPUs, and vendor: cpu has none", "remove one of the two"


def _value_or_source(raw: Raw) -> Iterator[Finding]:
    if raw.get("value") is not None and raw.get("valueFrom") is not None:
        yield "valueFrom", "is set beside value", "remove one of the two"


def _one_source(raw: Raw) -> Iterator[Finding]:
    if sum(value is not None for value in raw.values()) != 1:
        yield "", "needs exactly one of secretKeyRef, configMapKeyRef, fieldRef and resourceFieldRef", None


def _name_or_config_map(raw: Raw) -> Iterator[Finding]:
    given = {field for field in ("name", "configMapName", "key") if raw.get(field) is not None}
    if "name" in given and len(given) > 1:
        yield "name", "is set beside configMapName or key, which name another template", "remove one of the two"
    elif not given:
        yield "", "names no template", "set name, or configMapName and key"
    elif "name" not in given and len(given) == 1:
        missing = "key" if "configMapName" in given else "configMapName"
        yield missing, f"is missing beside {min(given)}", "set both"


def _absent(field: str, owner: str, why: str, what: str = "remove one of the two") -> Cel:
    return Cel(f"!has(self.{owner}) || !has(self.{field})", f"{field} {why}: {what}", field)


def _within_limit(name: str) -> Cel:
    """Checks the usual resources alone: a rule over all of them would cost the API server too much."""
    both = f"!has(self.requests) || !has(self.limits) || !('{name}' in self.requests) || !('{name}' in self.limits)"
    amounts = "quantity(string(self.requests['{0}'])).compareTo(quantity(string(self.limits['{0}']))) <= 0"
    return Cel(f"{both} || {amounts.format(name)}", f"the request of {name} is more than its limit: raise the limit")


def _no_gpu(part: str, name: str) -> Cel:
    return Cel(
        f"!has(self.{part}) || !('{name}' in self.{part})",
        f"{name} follows from the parallel sizes: set spec.engine.tensorParallelSize instead",
        part,
    )


RULES: dict[type[Strict], tuple[Rule, ...]] = {
    Autoscaling: (
        Rule(
            _min_and_max,
            (
                Cel(
                    "!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
                    "minReplicas is more than maxReplicas: raise maxReplicas, or lower minReplicas",
                    "minReplicas",
                ),
            ),
        ),
    ),
    Spec: (
        Rule(
            _replicas_or_autoscaling,
            (
                Cel(
                    f"!(has(self.replicas) && self.replicas != {REPLICAS} && has(self.autoscaling))",
                    "replicas is set beside autoscaling, which decides it: remove one of the two",
                    "replicas",
                ),
            ),
        ),
        Rule(
            _no_split_on_a_cpu,
            tuple(
                Cel(
                    "!has(self.accelerator) || self.accelerator.vendor != 'cpu' || !has(self.engine)"
                    f" || !has(self.engine.{field}) || self.engine.{field} == 1",
                    f"{field} splits a model across GPUs, and vendor: cpu has none: remove one of the two",
                    f"engine.{field}",
                )
                for field in ("tensorParallelSize", "pipelineParallelSize")
            ),
        ),
    ),
    Engine: (
        Rule(
            _batch_holds_all,
            (
                Cel(
                    "!has(self.maxNumBatchedTokens) || !has(self.maxNumSeqs)"
                    " || self.maxNumBatchedTokens >= self.maxNumSeqs",
                    "maxNumBatchedTokens is less than maxNumSeqs, and each running sequence needs a token a step:"
                    " raise it to maxNumSeqs at least",
                    "maxNumBatchedTokens",
                ),
            ),
        ),
        Rule(_no_repeats),  # its twin stands at each item of args
    ),
    EnvVar: (
        Rule(
            _value_or_source,
            (
                Cel(
                    "!(has(self.value) && has(self.valueFrom))",
                    "valueFrom is set beside value: remove one of the two",
                    "valueFrom",
                ),
            ),
        ),
    ),
    ChatTemplate: (
        Rule(
            _name_or_config_map,
            (
                Cel(
                    "!has(self.name) || !(has(self.configMapName) || has(self.key))",
                    "name is set beside configMapName or key, which name another template: remove one of the two",
                    "name",
                ),
                Cel(
                    "has(self.name) || has(self.configMapName) || has(self.key)",
                    "names no template: set name, or configMapName and key",
                ),
                *(
                    Cel(
                        f"!has(self.{other}) || has(self.{field})",
                        f"{field} is missing beside {other}: set both",
                        field,
                    )
                    for field, other in (("key", "configMapName"), ("configMapName", "key"))
                ),
            ),
        ),
    ),
    EnvSource: (
        Rule(
            _one_source,
            (
                Cel(
                    "[has(self.secretKeyRef), has(self.configMapKeyRef), has(self.fieldRef),"
                    " has(self.resourceFieldRef)].filter(given, given).size() == 1",
                    "needs exactly one of secretKeyRef, configMapKeyRef, fieldRef and resourceFieldRef",
                ),
            ),
        ),
    ),
    Cache: (
        Rule(
            _claim_or_size,
            (
                *(
                    _absent(field, "existingClaim", "is set beside existingClaim, whose own it is")
                    for field in ("size", "storageClassName", "accessMode")
                ),
                Cel(
                    "!has(self.existingClaim) || !has(self.retain) || !self.retain",
                    "retain is set beside existingClaim, which is never deleted: remove it",
                    "retain",
                ),
            ),
        ),
    ),
    Resources: (
        Rule(_requests_within_limits, tuple(map(_within_limit, ("cpu", "memory", "ephemeral-storage")))),
        Rule(
            _no_gpus,
            tuple(_no_gpu(part, name) for part in ("requests", "limits") for name in ("nvidia.com/gpu", "amd.com/gpu")),
        ),
    ),
    Accelerator: (
        Rule(
            _no_products_of_a_cpu,
            (
                Cel(
                    "self.vendor != 'cpu' || !has(self.products) || size(self.products) == 0",
                    "products names GPUs, and vendor: cpu has none: remove one of the two",
                    "products",
                ),
                Cel(
                    "self.vendor != 'cpu' || !has(self.resourceName)",
                    "resourceName names GPUs, and vendor: cpu has none: remove one of the two",
                    "resourceName",
                ),
            ),
        ),
    ),
}


def findings(model: type[Strict], raw: Raw) -> Iterator[Finding]:
    """The objections of the rules of `model`, and of the types within it, to `raw`; fields are dotted paths from it."""
    for rule in RULES.get(model, ()):
        try:
            yield from list(rule.check(raw))
        except (TypeError, ValueError, AttributeError, KeyError):
            continue
    for name, field in model.model_fields.items():
        alias = field.alias or name
        for inner, path, value in _inner(field.annotation, raw.get(alias), alias):
            for where, what, remedy in findings(inner, value):
                yield f"{path}.{where}".rstrip("."), what, remedy


def _inner(annotation: Any, value: Any, path: str) -> Iterator[tuple[type[Strict], str, Raw]]:
    """The types of ours within an annotation, with the mappings that are meant for them."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        if isinstance(value, Mapping):
            yield annotation, path, value
        return
    arguments = getattr(annotation, "__args__", ())
    if isinstance(value, list):
        for index, item in enumerate(value):
            for argument in arguments:
                yield from _inner(argument, item, f"{path}.{index}")
        return
    for argument in arguments:
        yield from _inner(argument, value, path)
