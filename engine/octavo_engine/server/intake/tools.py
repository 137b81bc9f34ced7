"""Tools of a chat: what a request offers, and which of them the answer may, or must, call."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from octavo_engine.errors import RequestError
from octavo_engine.server.context import ServerContext
from octavo_engine.server.intake.protocol import ChatBody

MAX_TOOLS = 1024
_NAME = re.compile(r"[^\s\"'<>{}()\[\]=]{1,256}")
USAGE = '{"type": "function", "function": {"name": "my_function"}}'

Mode = Literal["none", "auto", "required"]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools that an answer may call. `named`: the request asked for this one function."""

    mode: Mode = "none"
    tools: tuple[Mapping[str, Any], ...] = ()  # that may be called
    named: bool = False
    parallel: bool = True

    @property
    def asked(self) -> bool:
        return self.mode != "none"


NO_TOOLS = ToolUse()


def tool_use(context: ServerContext, body: ChatBody) -> ToolUse:
    """The tools that an answer to `body` may call.

    Raises:
        RequestError: a tool or the choice is wrong, or this model's calls can't be read; names the field.
    """
    tools = _checked(body.tools)
    use = _chosen(tools, body.tool_choice, parallel=body.parallel_tool_calls is not False)
    if use.asked:
        _check_read(context, "tools" if body.tool_choice is None else "tool_choice", use)
    return use


def _check_read(context: ServerContext, param: str, use: ToolUse) -> None:
    """Raise RequestError where calls of the served model can't be read, or are switched off."""
    if context.answer_format is None or context.answer_format.calls is None:
        raise RequestError(
            f"{param}: it is not known how this model writes tool calls: serve it with --tool-call-parser, or send "
            "tool_choice 'none' to have the tools in the prompt only",
            param,
        )
    if use.mode == "auto" and context.config.server.enable_auto_tool_choice is False:
        raise RequestError(
            "tool_choice 'auto' is switched off (--no-enable-auto-tool-choice): send 'none', 'required' or a function",
            param,
        )


def _checked(tools: Sequence[Mapping[str, Any]] | None) -> tuple[Mapping[str, Any], ...]:
    if tools is None:
        return ()
    if not tools:
        raise RequestError("tools is empty: send at least one, or leave it out", "tools")
    if len(tools) > MAX_TOOLS:
        raise RequestError(f"tools has {len(tools)} entries; at most {MAX_TOOLS} are served", "tools")
    for i, tool in enumerate(tools):
        where = f"tools[{i}]"
        kind = tool.get("type", "function")
        if kind != "function":
            raise RequestError(f"{where} is of type {str(kind)[:40]!r}; only functions are served", f"{where}.type")
        function = tool.get("function")
        if not isinstance(function, Mapping):
            raise RequestError(f"{where} has no function", f"{where}.function")
        name = function.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise RequestError(
                f"{where}.function.name must be 1 to 256 characters without spaces, quotes and brackets",
                f"{where}.function.name",
            )
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise RequestError(f"{where}.function.parameters must be a JSON schema", f"{where}.function.parameters")
    return tuple(tools)


def _chosen(tools: tuple[Mapping[str, Any], ...], choice: Any, *, parallel: bool) -> ToolUse:
    if choice == "none" or (choice is None and not tools):
        return ToolUse()
    if not tools:
        raise RequestError("tool_choice needs tools: send them, or leave it out", "tool_choice")
    if choice in (None, "auto"):
        return ToolUse("auto", tools, parallel=parallel)
    if choice == "required":
        return ToolUse("required", tools, parallel=parallel)
    if not isinstance(choice, Mapping):
        raise RequestError(
            f"tool_choice is {str(choice)[:40]!r}; it must be 'none', 'auto', 'required', a function ({USAGE}), or "
            "allowed_tools",
            "tool_choice",
        )
    if choice.get("type") == "allowed_tools":
        return _allowed(tools, choice.get("allowed_tools"), parallel=parallel)
    return ToolUse("required", _named(tools, choice, "tool_choice"), named=True, parallel=False)


def _allowed(tools: tuple[Mapping[str, Any], ...], allowed: Any, *, parallel: bool) -> ToolUse:
    where = "tool_choice.allowed_tools"
    mode = allowed.get("mode", "auto") if isinstance(allowed, Mapping) else None
    named = allowed.get("tools") if isinstance(allowed, Mapping) else None
    if mode not in ("auto", "required") or not isinstance(named, list) or not named:
        raise RequestError(f"{where} needs mode 'auto' or 'required', and tools, a list of functions", where)
    found = [_named(tools, tool, f"{where}.tools[{i}]")[0] for i, tool in enumerate(named)]
    return ToolUse("auto" if mode == "auto" else "required", tuple(found), parallel=parallel)


def _named(tools: tuple[Mapping[str, Any], ...], choice: Any, where: str) -> tuple[Mapping[str, Any], ...]:
    """The one tool that `choice` names."""
    function = choice.get("function") if isinstance(choice, Mapping) else None
    if not isinstance(function, Mapping):
        raise RequestError(f"{where} names no function; correct is {USAGE}", f"{where}.function")
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise RequestError(f"{where} names no function; correct is {USAGE}", f"{where}.function.name")
    for tool in tools:
        if tool["function"]["name"] == name:
            return (tool,)
    raise RequestError(f"{where} names {name[:80]!r}, which is none of the tools", where)
