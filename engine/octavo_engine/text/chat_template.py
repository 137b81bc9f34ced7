"""Turns a chat into the text of a prompt with the model's template.

Selects the template and its variables; the rendering itself runs in a process that can be ended.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from octavo_engine.errors import RequestError
from octavo_engine.text.chat_messages import ContentFormat, prepare_messages
from octavo_engine.text.named_templates import NAMES
from octavo_engine.text.template_process import TemplateProcess

logger = logging.getLogger(__name__)

RENDER_SECONDS = 5.0
MAX_CHARACTERS = 32 * 1024 * 1024
# What --chat-template-content-format may force; auto looks at the template.
FORCED_FORMATS: dict[str, ContentFormat] = {"string": "string", "openai": "openai"}
QUESTION = {"role": "user", "content": "question"}
# Private-use characters, so that no template writes them by itself.
ANSWER_MARK = "\ue000answer\ue001"
ANSWER = {"role": "assistant", "content": ANSWER_MARK}
RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"})


class ChatTemplate:
    """The model's chat template. Thread-safe; `render` blocks for some 0.2 ms, at the worst for the deadline.

    A template that comes with a request is rendered in a second process, so that a bad one keeps no one else waiting.
    """

    def __init__(
        self,
        templates: Mapping[str, str],
        special_tokens: Mapping[str, str] | None = None,
        *,
        override: str | None = None,
        content_format: str = "auto",
        seconds: float = RENDER_SECONDS,
        max_characters: int = MAX_CHARACTERS,
        renderer: TemplateProcess | None = None,
    ) -> None:
        """`templates` are the tokenizer's by name, `override` is the server's own; `special_tokens` are variables.

        `renderer` is a process that may have been started already; it is closed with this.
        """
        self._templates = {"default": override} if override is not None else dict(templates)
        self._special_tokens = dict(special_tokens or {})
        self._content_format = FORCED_FORMATS.get(content_format)
        self.max_characters = max_characters
        self._formats: dict[str, ContentFormat] = {}
        self._own = renderer or TemplateProcess(seconds)
        self._foreign = TemplateProcess(seconds)

    @property
    def texts(self) -> tuple[str, ...]:
        """The server's own templates."""
        return tuple(self._templates.values())

    def start(self) -> None:
        """Start the renderer ahead of the first chat; end it where there will be none."""
        if self._templates:
            self._own.start()
        else:
            self._own.close()

    def check(self) -> None:
        """Raises RequestError, naming the template, for one of the server's or the model's that is not valid Jinja."""
        for name, template in self._templates.items():
            try:
                self._formats[template] = self._own.ask({"do": "format", "template": template}, "messages")["format"]
            except RequestError as error:
                raise RequestError(f"chat template {name!r}: {error}", "messages") from error

    def close(self) -> None:
        """End the renderers' processes."""
        self._own.close()
        self._foreign.close()

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text. It contains BOS if the model needs one, so encode it without special tokens.

        `chat_template` comes from the request, as do `variables` (`chat_template_kwargs`). Raises RequestError.
        """
        if add_generation_prompt and continue_final_message:
            raise RequestError(
                "add_generation_prompt and continue_final_message exclude each other: set one of them to false",
                "continue_final_message",
            )
        clash = RESERVED.intersection(variables or ())
        if clash:
            name = min(clash)
            raise RequestError(f"{name} is a field of the request itself", f"chat_template_kwargs.{name}")
        template = chat_template if chat_template is not None else self._select(tools)
        process, param = (self._own, "messages") if chat_template is None else (self._foreign, "chat_template")
        # A template that never names the role refuses it, leaves it out, or writes a word that the model never saw.
        has_developer_role = "developer" in template
        content_format = self._format(template, process, param)
        prepared = prepare_messages(messages, content_format, has_developer_role=has_developer_role)
        rendered_with = {
            **self._special_tokens,
            **(variables or {}),
            "messages": prepared,
            "tools": list(tools) if tools else None,
            "documents": list(documents) if documents else None,
            "add_generation_prompt": add_generation_prompt,
        }
        return self._ask(process, template, rendered_with, param, continue_final_message=continue_final_message)

    def answer_endings(self, chat_template: str | None = None) -> tuple[str, ...]:
        """The text that each template writes after an assistant's answer, found by rendering a chat.

        The last turn counts, because models are trained on it: an earlier answer may end differently, as gpt-oss ends
        messages within a turn. For templates that leave the last turn open, an earlier one counts. A template that
        can't render a plain chat is skipped. `chat_template` is the request's; without it, the server's own are used.
        """
        if chat_template is not None:
            return (self._answer_ending(chat_template, self._foreign),)
        return tuple(self._answer_ending(template, self._own) for template in self._templates.values())

    def _answer_ending(self, template: str, process: TemplateProcess) -> str:
        failure: RequestError | None = None
        for messages in ([QUESTION, ANSWER], [QUESTION, ANSWER, QUESTION]):
            try:
                prepared = prepare_messages(messages, self._format(template, process, "messages"))
                variables = {**self._special_tokens, "messages": prepared, "tools": None, "documents": None}
                text = self._ask(process, template, {**variables, "add_generation_prompt": False}, "messages")
            except RequestError as error:
                failure = error
                continue
            _, found, ending = text.rpartition(ANSWER_MARK)
            if found and ending.strip():
                return ending.lstrip()
        if failure is not None and process is self._own:  # a request's template is not the administrator's
            logger.warning("which token ends a turn is not known, only the model's EOS ends an answer: %s", failure)
        return ""

    def _ask(
        self,
        process: TemplateProcess,
        template: str,
        variables: Mapping[str, Any],
        param: str,
        *,
        continue_final_message: bool = False,
    ) -> str:
        request = {
            "do": "render",
            "template": template,
            "variables": variables,
            "continue_final_message": continue_final_message,
            "max_characters": self.max_characters,
        }
        text: str = process.ask(request, param)["text"]
        return text

    def _select(self, tools: Sequence[Mapping[str, Any]] | None) -> str:
        name = "tool_use" if tools and "tool_use" in self._templates else "default"
        if name in self._templates:
            return self._templates[name]
        if self._templates:
            raise RequestError(
                f"the model has the chat templates {', '.join(sorted(self._templates))} and none is the default: "
                "serve it with --chat-template FILE",
                "messages",
            )
        raise RequestError(
            "the model has no chat template, so it can't chat: serve it with --chat-template FILE or the name of a "
            f"built-in one ({NAMES}), or use /v1/completions",
            "messages",
        )

    def _format(self, template: str, process: TemplateProcess, param: str) -> ContentFormat:
        if self._content_format is not None:
            return self._content_format
        known = self._formats.get(template)
        if known is None:
            known = process.ask({"do": "format", "template": template}, param)["format"]
            if process is self._own:
                self._formats[template] = known
        return known
