"""The body of /v1/responses, and the chat that its items amount to.

A conversation is a list of items: messages, reasoning, calls of functions and their results. What the served model can't read
(images, files) and what would run on OpenAI's side (web search, code interpreters …) is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from octavo_engine.errors import RequestError
from octavo_engine.sampling_params import MinP, Penalty, RepetitionPenalty, Temperature, TopK, TopP
from octavo_engine.server.intake.protocol import (
    MOST,
    Biases,
    ChatBody,
    Flag,
    NumLogprobs,
    Objects,
    Positive,
    RequestBody,
    Texts,
    TokenIds,
)
from octavo_engine.server.intake.structured_outputs import StructuredOutputs

Message = dict[str, Any]
ALIKE = (  # a chat has them too, by the same names
    *(
        "stream",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
    ),
    *(
        "seed",
        "stop",
        "stop_token_ids",
        "ignore_eos",
        "logit_bias",
        "skip_special_tokens",
        "include_stop_str_in_output",
    ),
    *("structured_outputs", "cache_salt"),
)
TEXT_PARTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}

DESCRIBED = ("function", "namespace")  # the types of tools that a request describes itself
HOSTED = ("web_search", "web_search_preview", "image_generation")  # those that assistants offer beside their own


class Reasoning(BaseModel):
    """The effort of reasoning. Summaries are not made: the reasoning itself is in the answer."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: str | None = None


class TextFormat(BaseModel):
    """A constraint on the text: as `response_format` of a chat, without its nesting."""

    model_config = ConfigDict(protected_namespaces=())

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class Text(BaseModel):
    """The form of the text."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ResponsesBody(RequestBody):
    """POST /v1/responses."""

    generates: ClassVar[bool] = True

    input: str | Objects
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    background: Flag = False
    stream: bool | None = None
    max_output_tokens: Positive | None = None
    temperature: Annotated[Temperature, Field(allow_inf_nan=False)] | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: Annotated[RepetitionPenalty, Field(allow_inf_nan=False)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: str | Texts | None = None
    stop_token_ids: TokenIds | None = None
    ignore_eos: Flag = False
    logit_bias: Biases | None = None
    skip_special_tokens: Flag = True
    include_stop_str_in_output: Flag = False
    structured_outputs: StructuredOutputs | None = None
    enable_response_messages: Flag = False
    max_tool_calls: Positive | None = None
    top_logprobs: NumLogprobs = None
    include: list[str] | None = None
    tools: Objects | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: Text | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    thinking_token_budget: Annotated[int, Field(ge=-1, lt=MOST, strict=True)] | None = None

    @property
    def wants_logprobs(self) -> bool:
        return "message.output_text.logprobs" in (self.include or ())


def chat_of(body: ResponsesBody, earlier: Sequence[Message]) -> ChatBody:
    """The chat that a body amounts to, after the messages `earlier` of the response that it follows.

    Raises:
        RequestError: an item or a tool is wrong, or is not served; names it.
    """
    instructions = [{"role": "system", "content": body.instructions}] if body.instructions else []
    fields: dict[str, Any] = {
        "model": body.model,
        "messages": [*instructions, *earlier, *messages_of(body.input)],
        "max_completion_tokens": body.max_output_tokens,
        "chat_template_kwargs": body.chat_template_kwargs,
        "logprobs": body.wants_logprobs,
        "top_logprobs": body.top_logprobs if body.wants_logprobs else None,
        "reasoning_effort": None if body.reasoning is None else body.reasoning.effort,
        "response_format": _response_format(body.text),
        "thinking_token_budget": body.thinking_token_budget,
        "truncate_prompt_tokens": -1 if body.truncation == "auto" else None,
        **_tools(body),
    }
    fields |= {name: getattr(body, name) for name in ALIKE}
    return ChatBody(**fields, **({} if body.priority is None else {"priority": body.priority}))


def messages_of(given: str | Sequence[Mapping[str, Any]]) -> list[Message]:
    """The messages of a chat that `input` amounts to. Neighbouring items of the assistant are one message.

    Raises:
        RequestError: an item is wrong, or is not served; names it.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[Message] = []
    for i, item in enumerate(given):
        at = f"input[{i}]"
        message = _message(item, at)
        last = messages[-1] if messages else None
        if (
            message["role"] == "assistant"
            and last is not None
            and last["role"] == "assistant"
            and _joins(last, message)
        ):
            calls = [*last.get("tool_calls", ()), *message.get("tool_calls", ())]
            last |= {key: value for key, value in message.items() if value is not None}
            if calls:
                last["tool_calls"] = calls
        else:
            messages.append(message)
    return messages


def _joins(last: Message, message: Message) -> bool:
    """True if two items of the assistant are parts of one message: reasoning, then text, then calls."""
    return not (message.get("content") is not None and (last.get("content") is not None or "tool_calls" in last))


def _message(item: Mapping[str, Any], at: str) -> Message:
    kind = item.get("type", "message")
    if kind == "message":
        role = item.get("role")
        if role not in ("user", "assistant", "system", "developer"):
            raise RequestError(
                f"{at}.role is {str(role)[:40]!r}; it must be user, assistant, system or developer", f"{at}.role"
            )
        return {"role": role, "content": _content(item.get("content"), f"{at}.content")}
    if kind == "function_call":
        function = {name: _string(item, name, at) for name in ("name", "arguments")}
        if item.get("namespace") is not None:
            function["name"] = f"{_string(item, 'namespace', at)}.{function['name']}"
        call = {"id": _string(item, "call_id", at), "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if kind == "function_call_output":
        output = item.get("output")
        text = output if isinstance(output, str) else _joined(_content(output, f"{at}.output"))
        return {"role": "tool", "tool_call_id": _string(item, "call_id", at), "content": text}
    if kind == "reasoning":
        return {"role": "assistant", "content": None, "reasoning": _reasoning(item, at)}
    raise RequestError(
        f"{at} is of type {str(kind)[:40]!r}; messages, reasoning, function calls and their outputs are served: leave it out",
        f"{at}.type",
    )


def _content(content: Any, at: str) -> list[Message]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise RequestError(f"{at} must be a text or a list of parts", at)
    return [{"type": "text", "text": _text(part, f"{at}[{i}]")} for i, part in enumerate(content)]


def _text(part: Any, at: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str) or kind not in TEXT_PARTS:
        raise RequestError(
            f"{at} is of type {str(kind)[:40]!r}, but this model reads text only: send parts of type 'input_text'",
            f"{at}.type",
        )
    return _string(part, TEXT_PARTS[kind], at)


def _joined(parts: Sequence[Message]) -> str:
    return "\n".join(part["text"] for part in parts)


def _reasoning(item: Mapping[str, Any], at: str) -> str:
    name = "content" if item.get("content") else "summary"
    parts = item.get(name) or []
    if not isinstance(parts, list):
        raise RequestError(f"{at}.{name} must be a list of parts", f"{at}.{name}")
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, Mapping))


def _string(item: Mapping[str, Any], name: str, at: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise RequestError(f"{at} has no {name}", f"{at}.{name}")
    return value


def _response_format(text: Text | None) -> dict[str, Any] | None:
    if text is None or text.format is None or text.format.type == "text":
        return None
    if text.format.type == "json_object":
        return {"type": "json_object"}
    if text.format.json_schema is None:
        raise RequestError("text.format of type json_schema needs schema", "text.format.schema")
    return {"type": "json_schema", "json_schema": {"name": text.format.name, "schema": text.format.json_schema}}


def _tools(body: ResponsesBody) -> dict[str, Any]:
    fields: dict[str, Any] = {"parallel_tool_calls": body.parallel_tool_calls}
    if body.tools:
        fields["tools"] = list(_functions(body.tools))
    choice = body.tool_choice
    if isinstance(choice, Mapping):
        choice = _chosen(choice)
    if choice is not None and (body.tools or choice not in ("auto", "none")):
        fields["tool_choice"] = choice
    return fields


def _chosen(choice: Mapping[str, Any]) -> dict[str, Any]:
    """A choice of functions in the form of a chat's."""
    if choice.get("type") == "allowed_tools":
        tools = choice.get("tools") or []
        if not isinstance(tools, list):
            raise RequestError("tool_choice.tools must be a list of functions", "tool_choice.tools")
        allowed = [{"type": "function", "function": {"name": _full_name(tool)}} for tool in tools]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode", "auto"), "tools": allowed}}
    return {"type": "function", "function": {"name": _full_name(choice)}}


def _full_name(tool: Any) -> Any:
    """The name that the model has for a function that is chosen by its name, and its namespace if it is in one."""
    if not isinstance(tool, Mapping):
        return None
    return f"{tool['namespace']}.{tool.get('name')}" if tool.get("namespace") else tool.get("name")


def _functions(tools: Sequence[Mapping[str, Any]], at: str = "tools", prefix: str = "") -> Iterator[dict[str, Any]]:
    """The functions of `tools` as a chat has them; those of a namespace have its name and a dot before theirs.

    What OpenAI would run is left out where functions stand beside it: coding assistants offer it unasked, and a model need
    not use a tool.
    """
    described = any(_kind(tool) in DESCRIBED for tool in tools)
    for i, tool in enumerate(tools):
        kind = _kind(tool)
        if kind == "namespace" and not prefix:
            inner = tool.get("tools")
            if not isinstance(inner, list):
                raise RequestError(f"{at}[{i}] is a namespace without tools, a list of functions", f"{at}[{i}].tools")
            yield from _functions(inner, f"{at}[{i}].tools", f"{_string(tool, 'name', f'{at}[{i}]')}.")
            continue
        if kind in HOSTED and described:
            continue
        if kind != "function":
            raise RequestError(
                f"{at}[{i}] is of type {str(kind)[:40]!r}; this server runs no tools: describe it as a function",
                f"{at}[{i}].type",
            )
        known = ("name", "description", "parameters", "strict")
        function = {name: tool[name] for name in known if tool.get(name) is not None}
        if prefix:
            function["name"] = prefix + _string(tool, "name", f"{at}[{i}]")
        yield {"type": "function", "function": function}


def _kind(tool: Any) -> Any:
    return tool.get("type") if isinstance(tool, Mapping) else None


def namespaces_of(tools: Sequence[Mapping[str, Any]] | None) -> dict[str, tuple[str, str]]:
    """The namespace and the name of each function in one, by the name that the model has for it."""
    return {
        f"{tool['name']}.{inner['name']}": (tool["name"], inner["name"])
        for tool in tools or ()
        if tool.get("type") == "namespace"
        for inner in tool["tools"]
        if _kind(inner) == "function"
    }
