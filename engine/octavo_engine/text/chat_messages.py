"""Chat messages as clients send them to messages as templates read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from octavo_engine.errors import RequestError
from octavo_engine.text.json_values import exceeds

# What a template reads as a message's content: a string, a list of parts, or either as it was sent.
ContentFormat = Literal["string", "openai", "both"]

MAX_ARGUMENT_VALUES = 2**15  # of all tool calls of a chat

# Names under which clients send, and templates read, what a model thought before it answered.
REASONING = ("reasoning", "reasoning_content", "thinking")
# Types of content parts that are text, and the key of their text.
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal", "thinking": "thinking"}


def prepare_messages(
    messages: Sequence[Mapping[str, Any]], content_format: ContentFormat, *, has_developer_role: bool = True
) -> list[dict[str, Any]]:
    """New messages with their content in the template's format; parts are joined by newlines for `string`.

    OpenAI's newer name of the system role, `developer`, becomes `system` for a template without it.

    Absent and null content is empty, other null fields are left out, and the arguments of tool calls are parsed, as
    templates expect them. Raises RequestError, which names the part, for content that is not text.
    """
    if not messages:
        raise RequestError("messages is empty: send at least one", "messages")
    _check_arguments(messages)
    prepared = [_prepare(message, f"messages[{i}]", content_format) for i, message in enumerate(messages)]
    for message in prepared:
        if message["role"] == "developer" and not has_developer_role:
            message["role"] = "system"
    return prepared


def _prepare(message: Mapping[str, Any], where: str, content_format: ContentFormat) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise RequestError(f"{where} must be an object with role and content", where)
    if not isinstance(message.get("role"), str):
        raise RequestError(f"{where} has no role", f"{where}.role")
    # Clients send answers back with every field: null means absent, and so does an empty list of tool calls.
    prepared = {key: value for key, value in message.items() if value is not None}
    if prepared.get("tool_calls") == []:
        del prepared["tool_calls"]
    texts = _texts(message.get("content"), f"{where}.content")
    if content_format == "openai" or (content_format == "both" and isinstance(message.get("content"), list)):
        prepared["content"] = [{"type": "text", "text": text} for text in texts]
    else:
        prepared["content"] = "\n".join(texts)
    thought = next((prepared[name] for name in REASONING if name in prepared), None)
    if thought is not None:
        prepared |= dict.fromkeys(REASONING, thought)
    if "tool_calls" in prepared:
        prepared["tool_calls"] = _tool_calls(prepared["tool_calls"], f"{where}.tool_calls")
    return prepared


def _texts(content: Any, where: str) -> list[str]:
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise RequestError(f"{where} must be a string or a list of parts", where)
    return [_part_text(part, f"{where}[{i}]") for i, part in enumerate(content)]


def _part_text(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str) or kind not in TEXT_PARTS:
        raise RequestError(
            f"{where} is of type {str(kind)[:40]!r}, but this model reads text only: send parts of type 'text'",
            f"{where}.type",
        )
    text = part.get(TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise RequestError(f"{where} has no {TEXT_PARTS[kind]}", f"{where}.{TEXT_PARTS[kind]}")
    return text


def _check_arguments(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raises RequestError where the arguments of all tool calls, which are JSON within JSON, have too many values."""
    texts = []
    for message in messages:
        calls = message.get("tool_calls") if isinstance(message, Mapping) else None
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, Mapping) else None
            arguments = function.get("arguments") if isinstance(function, Mapping) else None
            if isinstance(arguments, str):
                texts.append(arguments)
    if exceeds(",".join(texts).encode("utf-8", "surrogatepass"), MAX_ARGUMENT_VALUES):
        raise RequestError(
            f"the arguments of tool calls have more than {MAX_ARGUMENT_VALUES} values together: leave out old messages",
            "messages",
        )


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise RequestError(f"{where} must be a list", where)
    return [_tool_call(call, f"{where}[{i}]") for i, call in enumerate(calls)]


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise RequestError(f"{where} has no function", f"{where}.function")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            param = f"{where}.function.arguments"
            raise RequestError(f"{param} is not JSON: {error}", param) from error
    return {**call, "function": {**function, "arguments": {} if arguments is None else arguments}}
