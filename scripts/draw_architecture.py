"""Draw docs/images/architecture-{light,dark}.svg: from a manifest to the processes of a replica.

python scripts/draw_architecture.py
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "images"
WIDTH, HEIGHT = 860, 372
THEMES = {
    "light": {
        "ink": "#1f2328",
        "soft": "#59636e",
        "line": "#8c959f",
        "box": "#f6f8fa",
        "part": "#ddf4ff",
        "edge": "#0969da",
    },
    "dark": {
        "ink": "#f0f6fc",
        "soft": "#9198a1",
        "line": "#6e7681",
        "box": "#151b23",
        "part": "#121d2f",
        "edge": "#4493f8",
    },
}


class Box(NamedTuple):
    """A labelled rectangle, in pixels; `part` boxes are Octavo's own stages."""

    x: int
    y: int
    width: int
    height: int
    title: str
    lines: tuple[str, ...] = ()
    part: bool = True


class Frame(NamedTuple):
    """A frame around parts that belong together, with its name at the upper left."""

    x: int
    y: int
    width: int
    height: int
    title: str


FRAMES = (
    Frame(182, 12, 496, 158, "operator/ — one reconcile, level-based"),
    Frame(182, 196, 496, 164, "engine/ — one replica"),
)
BOXES = (
    Box(12, 52, 146, 74, "LLMService", ("a manifest: kubectl,", "helm, Argo CD, file"), part=False),
    Box(198, 44, 138, 112, "planner", ("fits? which GPU?", "start, rollout,", "engine's arguments")),
    Box(362, 44, 138, 112, "children", ("Deployment, Services,", "PVC, Job, HPA, …", "applied where they differ")),
    Box(526, 44, 138, 112, "status", ("conditions and Events:", "what, why,", "what to do")),
    Box(702, 52, 146, 74, "API server", ("or local processes", "with octavo up"), part=False),
    Box(12, 240, 146, 74, "clients", ("openai, curl, vLLM's", "dashboards"), part=False),
    Box(198, 228, 138, 116, "API process", ("HTTP, templates,", "tokenizer, streaming;", "no torch")),
    Box(362, 228, 138, 116, "engine core", ("scheduler, paged KV,", "prefix cache,", "batching")),
    Box(526, 228, 138, 116, "executor", ("native C++ on CPUs,", "torch and Triton", "on GPUs, over ranks")),
    Box(702, 240, 146, 74, "model", ("hub, volume, package,", "GGUF, safetensors"), part=False),
)
ARROWS = (  # x, y, x, y, label
    (158, 89, 198, 89, ""),
    (336, 100, 362, 100, ""),
    (500, 100, 526, 100, ""),
    (664, 89, 702, 89, ""),
    (775, 126, 640, 196, "runs pods of"),
    (158, 277, 198, 277, ""),
    (336, 286, 362, 286, ""),
    (500, 286, 526, 286, ""),
    (702, 277, 664, 277, ""),
    (322, 228, 322, 156, "queue depth"),
)


def main() -> None:
    for name, colours in THEMES.items():
        (FOLDER / f"architecture-{name}.svg").write_text(drawing(colours), encoding="utf-8")


def drawing(colours: dict[str, str]) -> str:
    """Return the picture in these colours."""
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="12">'
        ),
        "<title>How Octavo is built: manifest, planner, children, status; API process, engine core, executor</title>",
        (
            f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0 8 4 0 8Z" fill="{colours["line"]}"/></marker></defs>'
        ),
    ]
    for frame in FRAMES:
        parts.append(
            f'<rect x="{frame.x}" y="{frame.y}" width="{frame.width}" height="{frame.height}" rx="10" fill="none" '
            f'stroke="{colours["line"]}" stroke-dasharray="4 4"/>'
        )
        parts.append(_text(frame.x + 14, frame.y + 21, frame.title, colours["soft"]))
    for x1, y1, x2, y2, label in ARROWS:
        parts.append(
            f'<path d="M{x1} {y1} {x2} {y2}" stroke="{colours["line"]}" stroke-width="1.5" marker-end="url(#tip)"/>'
        )
        if label:
            parts.append(_text((x1 + x2) // 2 + 8, (y1 + y2) // 2 + 6, label, colours["soft"]))
    for box in BOXES:
        fill, edge = (colours["part"], colours["edge"]) if box.part else (colours["box"], colours["line"])
        parts.append(
            f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="8" fill="{fill}" stroke="{edge}"/>'
        )
        middle = box.x + box.width // 2
        top = box.y + (box.height - 17 * len(box.lines)) // 2
        parts.append(_text(middle, top + 2, box.title, colours["ink"], "middle", bold=True))
        for i, line in enumerate(box.lines):
            parts.append(_text(middle, top + 21 + 17 * i, line, colours["soft"], "middle"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: int, y: int, text: str, colour: str, anchor: str = "start", *, bold: bool = False) -> str:
    weight = ' font-weight="600" font-size="14"' if bold else ""
    return f'<text x="{x}" y="{y}" fill="{colour}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


if __name__ == "__main__":
    main()
