"""Reads a kernel's main loop in the compiler's assembly: bytes on their way while it computes, and instructions.

Reads PTX for the pipelined copies (`cp.async`) and SASS for what is executed; independent of kernels and GPUs.
"""

from __future__ import annotations

import re
from collections import deque

LABEL = re.compile(r"^\s*(\$L__BB\w+):")
BRANCH = re.compile(r"\bbra(?:\.uni)?\s+(\$L__BB\w+)")
COPY = re.compile(r"cp\.async\.c[ag]\.shared\.global\b[^;]*?\]\s*,\s*\[[^\]]*\]\s*,\s*(0x[0-9a-f]+|\d+)")
WAIT = re.compile(r"cp\.async\.wait_group\s+(\d+)")
SASS_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);")
PRODUCTS = ("HMMA", "HGMMA", "QGMMA", "QMMA", "UTCHMMA", "UTCQMMA", "FFMA")


def loops(ptx: str) -> list[list[str]]:
    """The lines of each loop, innermost first."""
    lines = ptx.splitlines()
    labels = {found[1]: at for at, line in enumerate(lines) if (found := LABEL.match(line))}
    spans = []
    for at, line in enumerate(lines):
        found = BRANCH.search(line)
        if found and labels.get(found[1], at) < at:
            spans.append((labels[found[1]], at))
    return [lines[start:end] for start, end in sorted(spans, key=lambda span: span[1] - span[0])]


def bytes_in_flight(ptx: str) -> int | None:
    """Bytes a thread that are on their way, at the least, at any time of the main loop; None without `cp.async`.

    The main loop is the innermost that copies. Copies count until the wait that covers their group: what is still
    under way after the loop's strictest wait is what hides the memory's latency behind a program's own arithmetic.
    """
    body = next((loop for loop in loops(ptx) if any(COPY.search(line) for line in loop)), None)
    if body is None:
        return None
    groups: deque[int] = deque()
    issued, least = 0, None
    for _ in range(8):  # of eight stages at most, the last round is the steady state
        least = None
        for line in body:
            if found := COPY.search(line):
                issued += int(found[1], 0)
            elif "cp.async.commit_group" in line:
                groups.append(issued)
                issued = 0
            elif found := WAIT.search(line):
                while len(groups) > int(found[1]):
                    groups.popleft()
                left = sum(groups) + issued
                least = left if least is None else min(least, left)
    return least or 0


def instructions_of_products(sass: str) -> int:
    """Instructions of the innermost loop that holds matrix products, one pass of one warp; 0 if there is none."""
    code = [(int(found[1], 16), found[2], found[3]) for found in SASS_LINE.finditer(sass)]
    found_loops = []
    for address, name, operands in code:
        target = re.search(r"0x([0-9a-f]+)", operands) if name.startswith("BRA") else None
        if target and int(target[1], 16) < address:
            inside = [n for a, n, _ in code if int(target[1], 16) <= a <= address]
            if any(n.partition(".")[0] in PRODUCTS for n in inside):
                found_loops.append(len(inside))
    return min(found_loops, default=0)
