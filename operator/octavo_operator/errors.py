"""The exceptions of the operator's half.

OperatorError
├── ManifestError        a manifest is wrong: every problem with its field, line and remedy; exit status 2
├── ModelUnknownError    a model's description that the user pointed at can't be read; exit status 2
├── LocalError           `octavo up` can't run this manifest on this machine; exit status 1
├── NoClusterError       no API server is known to this process; exit status 2
├── UnreachableError     the API server does not answer, or not in time
│   └── NotListedYetError  nodes and pods are still being listed for the first time
├── ApiError             the API server refuses, in its own words
└── NotLeadingError      the Lease may be another's: nothing is written
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class OperatorError(Exception):
    """The root: its message is for a person, with the state and what to do."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a manifest.

    `field` is the path from the document's root, such as `spec.engine.maxModelLen`; `line` counts from 1.
    """

    field: str
    message: str
    suggestion: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        what = f"{self.field}: {self.message}" if self.field else self.message
        return f"{where}{what}" + (f"; {self.suggestion}" if self.suggestion else "")


class ManifestError(OperatorError):
    """A manifest can't be used. `problems` holds all of them, in the file's order."""

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        self.source = source
        self.problems = problems
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{source}: {count}", *(f"  {problem}" for problem in problems)]))


class ModelUnknownError(OperatorError):
    """A config.json or a GGUF file that was named can't be read as a model's description."""


class LocalError(OperatorError):
    """The manifest is right, but this machine can't run it as it stands."""


class NoClusterError(OperatorError):
    """Neither a kubeconfig nor a ServiceAccount names an API server."""


class UnreachableError(OperatorError):
    """The API server does not answer, or not in time."""


class NotListedYetError(UnreachableError):
    """The cluster's nodes and pods are still being listed for the first time."""


class ApiError(OperatorError):
    """The API server refuses. `status` is HTTP's, `reason` Kubernetes' word for it, `words` its own sentence."""

    def __init__(self, method: str, path: str, status: int, answer: dict[str, Any]) -> None:
        self.status = status
        self.reason = str(answer.get("reason") or "")
        self.words = str(answer.get("message") or f"HTTP {status}")
        details = answer.get("details")
        causes = details.get("causes") if isinstance(details, dict) else None
        self.causes = tuple(str(cause.get("reason")) for cause in causes or () if isinstance(cause, dict))
        super().__init__(f"{method} {path}: {status} {self.reason}: {self.words}")


class NotLeadingError(OperatorError):
    """This replica may have lost the Lease."""
