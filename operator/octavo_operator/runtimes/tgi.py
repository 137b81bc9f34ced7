"""Text Generation Inference: named by the CRD, and not run by this version of the operator."""

from __future__ import annotations

from octavo_operator.runtimes.runtime import Unsupported

RUNTIME = Unsupported("tgi")
