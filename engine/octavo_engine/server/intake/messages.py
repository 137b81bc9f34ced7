"""The body of /v1/messages, as clients of Anthropic's API send it, and the chat that it amounts to.

What the served model can't read (images, documents, Anthropic's own tools) is refused by name. Fields beyond those below are
accepted silently, as elsewhere; `cache_control` needs no answer, since every prefix is cached.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from octavo_engine.errors import RequestError
from octavo_engine.sampling_params import Temperature, TopK, TopP
from octavo_engine.server.intake.protocol import MOST, ChatBody, Flag, Objects, Positive, RequestBody, Texts

OUR_TOOLS = (None, "custom")  # the types of tools that a request describes itself


class ToolChoice(BaseModel):
    """The choice of tools to call."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: Flag = False


class Thinking(BaseModel):
    """Reasoning before the answer, of at most so many tokens where the model's delimiters are known."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=0, lt=MOST)] | None = None


class OutputFormat(BaseModel):
    """A JSON schema that the answer must match."""

    model_config = ConfigDict(protected_namespaces=())

    type: Literal["json_schema"] = "json_schema"
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputConfig(BaseModel):
    """Effort and form of the answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class PromptBody(RequestBody):
    """POST /v1/messages/count_tokens: the fields that make the prompt."""

    messages: Objects
    system: str | Objects | None = None
    tools: Objects | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class MessagesBody(PromptBody):
    """POST /v1/messages."""

    generates: ClassVar[bool] = True

    max_tokens: Positive
    stream: bool | None = None
    stop_sequences: Texts | None = None
    temperature: Annotated[Temperature, Field(allow_inf_nan=False)] | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    metadata: dict[str, Any] | None = None


def chat_of(body: PromptBody) -> ChatBody:
    """The chat that a body amounts to.

    Raises:
        RequestError: a message, a block or a tool is wrong, or is not served; names it.
    """
    messages = [*_system(body.system), *(m for i, given in enumerate(body.messages) for m in _messages(given, i))]
    fields: dict[str, Any] = {
        "model": body.model,
        "messages": messages,
        "chat_template_kwargs": body.chat_template_kwargs,
    }
    fields |= _tools(body)
    if body.thinking is not None and body.thinking.type == "enabled":
        fields["thinking_token_budget"] = body.thinking.budget_tokens
    if body.thinking is not None and body.thinking.type == "disabled":
        fields["reasoning_effort"] = "none"
    elif body.output_config is not None and body.output_config.effort is not None:
        fields["reasoning_effort"] = body.output_config.effort
    if body.output_config is not None and body.output_config.format is not None:
        schema = {"schema": body.output_config.format.json_schema}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    if isinstance(body, MessagesBody):
        fields |= {name: getattr(body, name) for name in ("max_tokens", "stream", "temperature", "top_p", "top_k")}
        fields["stop"] = body.stop_sequences
    return ChatBody(**fields)


def _system(system: str | Sequence[Mapping[str, Any]] | None) -> Iterator[dict[str, Any]]:
    if not system:
        return
    text = system if isinstance(system, str) else "\n".join(_text(b, f"system[{i}]") for i, b in enumerate(system))
    yield {"role": "system", "content": text}


def _messages(message: Mapping[str, Any], number: int) -> Iterator[dict[str, Any]]:
    """One message as OpenAI's API has it: the results of tools are messages of their own."""
    where = f"messages[{number}]"
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise RequestError(f"{where}.role is {str(role)[:40]!r}; it must be 'user' or 'assistant'", f"{where}.role")
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    if not isinstance(content, list):
        raise RequestError(f"{where}.content must be a text or a list of blocks", f"{where}.content")
    texts: list[str] = []
    said: dict[str, Any] = {"role": role}
    for i, block in enumerate(content):
        at = f"{where}.content[{i}]"
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "tool_result":
            yield _tool_result(block, at)
        elif kind == "tool_use":
            said.setdefault("tool_calls", []).append(_tool_use(block, at))
        elif kind == "thinking":
            said["reasoning"] = said.get("reasoning", "") + _string(block, "thinking", at)
        elif kind != "redacted_thinking":  # which only Anthropic can read
            texts.append(_text(block, at))
    if texts or len(said) > 1:
        yield {**said, "content": [{"type": "text", "text": text} for text in texts] if texts else None}


def _tool_result(block: Mapping[str, Any], at: str) -> dict[str, Any]:
    content = block.get("content")
    if isinstance(content, list):
        content = "\n".join(_text(inner, f"{at}.content[{i}]") for i, inner in enumerate(content))
    elif content is not None and not isinstance(content, str):
        raise RequestError(f"{at}.content must be a text or a list of blocks", f"{at}.content")
    text = f"Error: {content or ''}" if block.get("is_error") else content or ""
    return {"role": "tool", "tool_call_id": _string(block, "tool_use_id", at), "content": text}


def _tool_use(block: Mapping[str, Any], at: str) -> dict[str, Any]:
    given = block.get("input", {})
    if not isinstance(given, Mapping):
        raise RequestError(f"{at}.input must be an object", f"{at}.input")
    function = {"name": _string(block, "name", at), "arguments": json.dumps(given, ensure_ascii=False)}
    return {"id": _string(block, "id", at), "type": "function", "function": function}


def _text(block: Any, at: str) -> str:
    kind = block.get("type") if isinstance(block, Mapping) else None
    if kind != "text":
        raise RequestError(
            f"{at} is of type {str(kind)[:40]!r}, but this model reads text only: send blocks of type 'text'",
            f"{at}.type",
        )
    return _string(block, "text", at)


def _string(block: Mapping[str, Any], name: str, at: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise RequestError(f"{at} has no {name}", f"{at}.{name}")
    return value


def _tools(body: PromptBody) -> dict[str, Any]:
    choice = body.tool_choice
    fields: dict[str, Any] = {}
    if choice is not None:
        if choice.type == "tool" and not choice.name:
            raise RequestError("tool_choice of type 'tool' needs name", "tool_choice.name")
        named = {"type": "function", "function": {"name": choice.name}}
        fields["tool_choice"] = {"auto": "auto", "any": "required", "none": "none", "tool": named}[choice.type]
        fields["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    if body.tools:
        fields["tools"] = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(body.tools)]
    elif choice is not None and choice.type in {"auto", "none"}:
        del fields["tool_choice"]
    return fields


def _tool(tool: Mapping[str, Any], at: str) -> dict[str, Any]:
    if tool.get("type") not in OUR_TOOLS:
        raise RequestError(
            f"{at} is of type {str(tool['type'])[:40]!r}, a tool of Anthropic's own; describe it with name, description "
            "and input_schema instead",
            f"{at}.type",
        )
    schema = tool.get("input_schema")
    if not isinstance(schema, Mapping):
        raise RequestError(f"{at} has no input_schema", f"{at}.input_schema")
    function = {"name": tool.get("name"), "parameters": {"type": "object", **schema}}
    function |= {name: tool[name] for name in ("description", "strict") if tool.get(name) is not None}
    return {"type": "function", "function": function}
