"""The answer format of a model: that of a flag, of the model's own files, or what its chat template writes.

Owns the names that vLLM has for its parsers, each of which is a file of ours, or refused with the nearest that is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from octavo_engine.errors import ConfigError
from octavo_engine.text.answer_format import AnswerFormat, FormatFile, combined, format_files

NONE = "none"  # a flag's value: leave the text as it is
OWN = "hf"  # vLLM's name for the response template in the model's tokenizer_config.json

# Names of vLLM 0.33 without a file: what their models write, and the nearest that is read.
REFUSED_TOOLS = {
    "kimi_k3": "its XTML elements are not described yet; kimi_k2 is the nearest",
    "minimax_m3": "its nested elements are not described yet; minimax_m2 is the nearest",
    "k2_horizon": "its tags are not described yet; glm45 is the nearest",
    "hy_v4": "its tags are not described yet; hy_v3 is the nearest",
    "minicpm5": "its <function name=…> elements are not described yet; qwen3_coder is the nearest",
    "muse": "its format is not described yet; hermes is the nearest",
    "muse_glimmer": "its format is not described yet; hermes is the nearest",
    "musespark1x": "its format is not described yet; hermes is the nearest",
    "beam": "its format is not described yet; hermes is the nearest",
}
REFUSED_REASONING = {
    "kimi_k3": "its elements are not described yet; kimi_k2 is the nearest",
    "minimax_m3": "its tags are not described yet; minimax_m2 is the nearest",
    "minimax_m2_append_think": "it leaves reasoning in the content; none does that",
    "k2_horizon": "its tags are not described yet; deepseek_r1 is the nearest",
    "hy_v4": "its tags are not described yet; hy_v3 is the nearest",
    "muse": "its format is not described yet; deepseek_r1 is the nearest",
    "muse_glimmer": "its format is not described yet; deepseek_r1 is the nearest",
    "musespark1x": "its format is not described yet; deepseek_r1 is the nearest",
    "beam": "its format is not described yet; deepseek_r1 is the nearest",
}


@dataclass(frozen=True, slots=True)
class FormatChoice:
    """The format of a model's answers, None if none is known; `lines` say where it is from, for the log."""

    answer_format: AnswerFormat | None
    lines: tuple[str, ...] = ()


def tool_parsers() -> dict[str, FormatFile]:
    """Return the file that describes calls, by each name that `--tool-call-parser` takes."""
    return {name: file for file in format_files().values() for name in {*file.tool_parsers, *_own(file, calls=True)}}


def reasoning_parsers() -> dict[str, FormatFile]:
    """Return the file that describes reasoning, by each name that `--reasoning-parser` takes."""
    return {
        name: file for file in format_files().values() for name in {*file.reasoning_parsers, *_own(file, calls=False)}
    }


def check_names(tool_parser: str | None, reasoning_parser: str | None) -> None:
    """Raise ConfigError for a flag's value that is no name of a format."""
    for flag, name, known, refused in (
        ("--tool-call-parser", tool_parser, tool_parsers, REFUSED_TOOLS),
        ("--reasoning-parser", reasoning_parser, reasoning_parsers, REFUSED_REASONING),
    ):
        if not name or name in {NONE, OWN}:
            continue
        if name in refused:
            raise ConfigError(f"{flag} {name}: {refused[name]}; leave it out to have the text as it is")
        names = known()
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
            hint = f"did you mean {close[0]}?" if close else f"it is one of {', '.join(sorted(names))}"
            raise ConfigError(f"{flag} {name}: there is no such format; {hint}")


def choose_format(
    tool_parser: str | None, reasoning_parser: str | None, templates: Iterable[str], own: AnswerFormat | None
) -> FormatChoice:
    """The format for the values of both flags, a model's chat templates and its own response template.

    Raises:
        ConfigError: a flag asks for the model's own, and it brings none.
    """
    texts = list(templates)
    lines: list[str] = []
    chosen: list[AnswerFormat | None] = []
    for kind, flag, name, files in (
        ("reasoning", "--reasoning-parser", reasoning_parser, reasoning_parsers),
        ("tool calls", "--tool-call-parser", tool_parser, tool_parsers),
    ):
        part = None if own is None else own.reasoning if kind == "reasoning" else own.calls
        if name == OWN and part is None:
            raise ConfigError(f"{flag} {OWN}: the model's tokenizer_config.json has no response template for {kind}")
        if name == NONE:
            chosen.append(None)
        elif name and name != OWN:
            chosen.append(files()[name])
        elif part is not None:
            chosen.append(own)
            lines.append(f"{kind} are read by the model's own response template ({flag} names another format)")
        else:
            found = _detected(texts, reasoning=kind == "reasoning")
            chosen.append(found)
            if found is not None:
                lines.append(
                    f"{kind}: the chat template writes the format {found.name} ({flag} names another, or none)"
                )
    return FormatChoice(combined(*chosen), tuple(lines))


def _detected(templates: list[str], *, reasoning: bool) -> FormatFile | None:
    """The file whose marks a template holds; of several, the one with the most text of its own."""
    best: tuple[int, FormatFile | None] = (0, None)
    for file in format_files().values():
        for marks in file.reasoning_marks if reasoning else file.marks:
            size = sum(map(len, marks))
            if size > best[0] and any(all(mark in template for mark in marks) for template in templates):
                best = size, file
    return best[1]


def _own(file: FormatFile, *, calls: bool) -> tuple[str, ...]:
    return (file.name,) if (file.calls if calls else file.reasoning) is not None else ()
