"""Renders chat templates in a separate process, because only a process can reliably end an untrusted template.

Run as a script, so that it imports jinja2 and nothing of Octavo. Reads requests from stdin and writes replies to
stdout, each four bytes of length and JSON. A request that takes too long is ended by SIGALRM, whose default action
ends the process even within one long call; memory is bounded by a resource limit, and no file can be written.
The environment is set up as in transformers, for which chat templates are written.
"""

from __future__ import annotations

import functools
import json
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any, BinaryIO

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

OTHERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
LENGTH = struct.Struct(">I")
UP = b"+"  # written once the imports are done
# Private-use characters, which no message contains by chance; the final space shows whether a template trims.
CONTINUE_MARK = "\ue000continue here\ue001 "


class _Refused(Exception):  # noqa: N818 - a refusal is an answer
    """A chat can't be rendered; the message is for the client."""


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}` marks what an assistant wrote, for training; here it renders its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own interface

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Namespace(jinja2.utils.Namespace):
    """Refuses names with a leading underscore, behind which Python keeps its own."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        jinja2.utils.Namespace.__init__(self)
        for name, value in dict(*rest, **kwargs).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace can't hold {name!r}")
        super().__setitem__(name, value)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # Jinja's own escapes HTML, which is wrong in a prompt.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise _Refused(f"the chat template refuses these messages: {message}")


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


@functools.lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=_raise_exception,
        strftime_now=_strftime_now,
        namespace=_Namespace,
    )
    return environment


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
    try:
        return _environment().from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise _Refused(f"the chat template is not valid Jinja: line {error.lineno}: {error.message}") from error


def content_format(template: str) -> str:
    """`openai` if the template walks over the parts of a message's content, `both` if it also asks whether content
    is a string, else `string`.
    """
    try:
        tree = _environment().parse(template)
    except jinja2.TemplateSyntaxError as error:
        raise _Refused(f"the chat template is not valid Jinja: line {error.lineno}: {error.message}") from error
    names = {argument.name for macro in tree.find_all(nodes.Macro) for argument in macro.args}
    aliases = {name for name in names if name == "content"}
    for assignment in tree.find_all(nodes.Assign):
        if isinstance(assignment.target, nodes.Name) and _is_content(assignment.node, aliases):
            aliases.add(assignment.target.name)
    if not any(_is_content(loop.iter, aliases) for loop in tree.find_all(nodes.For)):
        return "string"
    return "both" if any(test.name == "string" for test in tree.find_all(nodes.Test)) else "openai"


def _is_content(node: nodes.Node | None, aliases: set[str]) -> bool:
    while isinstance(node, nodes.Filter):
        node = node.node
    match node:
        case nodes.Getattr(attr="content"):
            return True
        case nodes.Getitem(arg=nodes.Const(value="content")):
            return True
        case nodes.Name(name=name):
            return name in aliases
        case _:
            return False


def render(template: str, variables: dict[str, Any], *, continue_final_message: bool, max_characters: int) -> str:
    """The rendered text; with `continue_final_message` it ends where the last message's content ends."""
    final = _mark_final(variables["messages"]) if continue_final_message else None
    text = "".join(_bounded(_compile(template).generate(variables), max_characters))
    return text if final is None else _cut_at_mark(text, final)


def _bounded(pieces: Iterator[str], limit: int) -> Iterator[str]:
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > limit:
            raise _Refused(f"the chat template renders more than {limit} characters")
        yield piece


def _mark_final(messages: list[dict[str, Any]]) -> str:
    """Marks the end of the last message's text in place, and returns that text."""
    content = messages[-1].get("content")
    if isinstance(content, str):
        messages[-1]["content"] = content + CONTINUE_MARK
        return content
    for part in reversed(content or []):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text: str = part["text"]
            part["text"] = text + CONTINUE_MARK
            return text
    raise _Refused("continue_final_message is set, but the last message has no text to continue")


def _cut_at_mark(text: str, final: str) -> str:
    at = text.rfind(CONTINUE_MARK.rstrip())
    if at < 0 or final.strip() not in text:
        raise _Refused(
            "continue_final_message is set, but the chat template leaves out part of the last message, so that it "
            "can't be continued"
        )
    kept = text[:at]
    return kept if text.startswith(CONTINUE_MARK, at) else kept.rstrip()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        if request["do"] == "format":
            return {"format": content_format(request["template"])}
        text = render(
            request["template"],
            request["variables"],
            continue_final_message=request["continue_final_message"],
            max_characters=request["max_characters"],
        )
    except _Refused as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "the chat template needs more memory than it may have"}
    except RecursionError:
        return {"error": "the chat template nests or recurses too deeply"}
    except Exception as error:  # noqa: BLE001 - a template can raise anything, and each is the client's answer
        return {"error": f"the chat template can't render these messages: {type(error).__name__}: {error}"}
    return {"text": text}


def _read(stream: BinaryIO) -> dict[str, Any] | None:
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    body: dict[str, Any] = json.loads(stream.read(LENGTH.unpack(head)[0]))
    return body


def main() -> None:
    """Say that it is up, then answer requests until stdin ends."""
    # Signals are for the server, which still needs this process while it drains: it ends with its stdin.
    for number in OTHERS:
        signal.signal(number, signal.SIG_IGN)
    memory = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.buffer.write(UP)
    sys.stdout.buffer.flush()
    while (request := _read(sys.stdin.buffer)) is not None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever it is in the middle of
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        body = json.dumps(_answer(request), ensure_ascii=False).encode("utf-8", "surrogatepass")
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        sys.stdout.buffer.write(LENGTH.pack(len(body)) + body)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
