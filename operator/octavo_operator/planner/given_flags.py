"""Reads flags that the manifest gives in `engine.args`, as the engine's own parser takes them: the last one counts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from octavo_operator.api.engine import Engine
from octavo_operator.api.flags import canonical
from octavo_operator.api.reasons import SpecReason
from octavo_operator.api.refusal import Refusal
from octavo_operator.runtimes import runtime_of

FILE = "--config"
WHOLE_EXPERTS = ("--enable-expert-parallel", "-ep")


def values(args: Sequence[str]) -> dict[str, str]:
    """Flags with their values, by their spelling with dashes."""
    found = {}
    for word, following in pairwise([*args, ""]):
        if word.startswith("--"):
            _, equals, value = word.partition("=")
            found[canonical(word)] = value if equals else following
    return found


def shares_out_experts(engine: Engine) -> bool:
    """True if a stage's ranks share out whole experts of a mixture, in place of a slice of each."""
    on = False
    for word in engine.args:
        if canonical(word) in WHOLE_EXPERTS:
            on = not word.startswith(("--no-", "--no_"))
    return on


def refusal(engine: Engine) -> Refusal | None:
    """Refuses a file of flags: what it sets is not seen here, so probes, memory and fields could contradict it."""
    if FILE not in values(engine.args) or not runtime_of(engine).reads_flags_of_file:
        return None
    return Refusal(
        SpecReason.ARGUMENT_FILE,
        f"engine.args: {FILE} names a file in the container, whose flags the plan can't see: probes would not follow its "
        "TLS, nor the memory its sizes",
        f"write the file's flags into engine.args, those that a field stands for into the field, and remove {FILE}",
    )
