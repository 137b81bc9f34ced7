"""A plan as a person reads it in a terminal, and as a machine reads it."""

from __future__ import annotations

import codecs
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic.alias_generators import to_camel

from octavo_operator.api.reasons import Reason
from octavo_operator.planner.plan import GpuBudget, Plan
from octavo_operator.planner.sizes import GIB, MIB, gib
from octavo_operator.runtimes import RUNTIMES

BAR = 25  # blocks that show a whole GPU
WIDTH = 100  # of the engine's command line, before it is broken
INDENT = 12


def text(plan: Plan) -> str:
    """The plan in a screenful: model, memory, what it serves and creates, what to be warned of, what would run."""
    lines = [("model", plan.model_summary)]
    budget = plan.fit.budget
    if budget is not None:
        lines.append(("a GPU" if plan.hardware.gpus else "memory", bar(budget, plan.hardware.gpus)))
    if plan.refusal is not None:
        lines += [("refused", f"{plan.refusal.reason}: {plan.refusal.message}"), ("remedy", plan.refusal.remedy)]
        return _laid_out(lines)
    verb = {"True": "serves", "Unknown": "fits?", "False": "fits not"}[plan.fit.state]
    lines.append((verb, plan.fit.message))
    lines.append(("names", ", ".join(plan.served_names)))
    lines.append(("creates", f",\n{' ' * INDENT}".join(_created(plan))))
    lines += [("why", reason) for reason in plan.reasons]
    lines += [("warns", warning) for warning in plan.warnings]
    lines.append(("engine", command_line(plan)))
    return _laid_out(lines)


def bar(budget: GpuBudget, gpus: int) -> str:
    """`[weights 32.1 ████ | KV 2.9 █ | …]  of 40 GiB`, each part as wide as its share."""
    small = budget.capacity < GIB
    unit = MIB if small else GIB

    def amount(count: int) -> str:
        return str(round(count / MIB)) if small else gib(count)

    parts = [("weights", budget.weights), ("KV", budget.kv), ("overhead", budget.overhead)]
    parts.append(("kept free", budget.kept_free))
    whole = max(budget.capacity, budget.weights + budget.overhead + budget.kept_free)
    shown = [f"{name} {amount(count)} {'█' * max(1, round(count / whole * BAR))}" for name, count in parts if count > 0]
    if budget.kv < 0:
        shown.append(f"short of {amount(-budget.kv)}")
    where = f", on each of {gpus}" if gpus > 1 else ""
    return f"[{' | '.join(shown)}]  of {budget.capacity / unit:.4g} {'MiB' if small else 'GiB'}{where}"


def command_line(plan: Plan) -> str:
    """The engine's command, to be pasted into a shell; broken before flags where it is long."""
    lines = [" ".join(RUNTIMES[plan.engine.runtime].command)]
    for word in map(shlex.quote, plan.engine.line(None, plan.engine.port)):
        if word.startswith("-") and len(lines[-1]) + len(word) + 20 > WIDTH:
            lines[-1] += " \\"
            lines.append("  " + word)
        else:
            lines[-1] += " " + word
    return f"\n{' ' * INDENT}".join(lines)


def document(value: Any) -> Any:
    """A plan, or a part of one, as plain values for JSON or YAML; fields are spelled as in the manifest."""
    if is_dataclass(value) and not isinstance(value, type):
        result = {to_camel(f.name): document(getattr(value, f.name)) for f in fields(value)}
        if isinstance(value, GpuBudget):
            result |= {"kv": value.kv, "keptFree": value.kept_free, "sequences": value.sequences}
        return result
    if isinstance(value, tuple | list):
        return [document(item) for item in value]
    if isinstance(value, Reason):
        return value.value
    return value


def as_json(value: Any) -> str:
    """Indented JSON; escaped where standard output can't write every character."""
    return json.dumps(value, indent=2, ensure_ascii=not _writes_everything())


def as_yaml(documents: Sequence[Any]) -> str:
    """One YAML document for each; escaped where standard output can't write every character."""
    import yaml  # noqa: PLC0415 — the manifest's reader has imported it already

    class Plain(yaml.SafeDumper):
        """A dumper without anchors: what occurs twice is written twice."""

        def ignore_aliases(self, data: object) -> bool:
            del data
            return True

    unicode = _writes_everything()
    texts = (yaml.dump(d, Dumper=Plain, sort_keys=False, allow_unicode=unicode, width=120) for d in documents)
    return "---\n".join(texts).rstrip()


def _writes_everything() -> bool:
    return codecs.lookup(sys.stdout.encoding or "utf-8").name.startswith("utf")


def _created(plan: Plan) -> Iterator[str]:
    for child in plan.children:
        detail = child.detail if child.detail.startswith(":") else f"({child.detail})"
        yield f"{_short(child.kind)} {child.name} {detail}"


def _short(kind: str) -> str:
    short = {"PersistentVolumeClaim": "PVC", "HorizontalPodAutoscaler": "HPA", "PodDisruptionBudget": "PDB"}
    return short.get(kind, kind)


def _laid_out(lines: list[tuple[str, str]]) -> str:
    """Labels at the left, once where they follow each other."""
    result, previous = [], ""
    for label, content in lines:
        shown = "" if label == previous else label
        result.append(f"  {shown:<{INDENT - 2}}{content}")
        previous = label
    return "\n".join(result)
