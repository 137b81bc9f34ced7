"""Makes a server context from a core process that is starting: tokenizer, template, defaults, limits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from octavo_engine.config import EngineConfig, ModelConfig, ModelFiles
from octavo_engine.core_client.engine_link import EngineLink
from octavo_engine.errors import ConfigError, ModelLoadError, RequestError
from octavo_engine.server.context import ServerContext
from octavo_engine.server.intake.limits import limits_of
from octavo_engine.server.metrics import Metrics
from octavo_engine.server.stored_batches.folder import BatchFolder
from octavo_engine.server.tracing import Tracing
from octavo_engine.text.answer_format import AnswerFormat
from octavo_engine.text.byte_tokenizer import byte_tokenizer
from octavo_engine.text.chat_template import RENDER_SECONDS, ChatTemplate
from octavo_engine.text.format_choice import choose_format
from octavo_engine.text.named_templates import NAMED_TEMPLATES, NamedTemplate, template_of_family
from octavo_engine.text.response_template import TemplateError, read_response_template
from octavo_engine.text.template_process import TemplateProcess
from octavo_engine.text.tokenizer import Tokenizer, load_tokenizer, load_tokenizer_json
from octavo_engine.text.turn_end import turn_ends
from octavo_engine.weights.cache import expanded
from octavo_engine.weights.generation_config import read_generation_defaults
from octavo_engine.weights.model_spec import architecture_names, hidden_size
from octavo_engine.weights.source import resolve

logger = logging.getLogger(__name__)

OnStage = Callable[[str, float], None]


async def build_context(config: EngineConfig, client: EngineLink, on_stage: OnStage) -> ServerContext:
    """Wait for the core's start, and prepare the server at the same time.

    Raises:
        EngineDeadError: the core could not start; carries its reason.
        ModelLoadError: the tokenizer or the generation config can't be used.
        ConfigError: `--chat-template` is not valid Jinja, or `--batch-dir` can't be used.
    """
    metrics = Metrics(config.model.served_model_names[0])
    if config.batches.folder is not None:
        metrics.batches.folder = BatchFolder(config.batches)
    if config.server.otlp_traces_endpoint is not None:
        metrics.tracing = Tracing(config.server.otlp_traces_endpoint)
    client.connect(metrics, on_stage)
    renderer = TemplateProcess(RENDER_SECONDS)
    renderer.start()  # its interpreter starts while the core finds the model
    files = await client.model_files()
    start = time.perf_counter()
    tokenizer = await asyncio.to_thread(tokenizer_of, config.model, files)
    defaults = await asyncio.to_thread(read_generation_defaults, config.model, files)
    named = await asyncio.to_thread(named_template_of, config.model, files, tokenizer)
    special = tokenizer.special_tokens
    if named is not None and not tokenizer.adds_bos:
        special = {**special, "bos_token": ""}
    template = ChatTemplate(
        tokenizer.chat_templates,
        special,
        override=config.model.chat_template if named is None else named.text,
        content_format=config.model.chat_template_content_format,
        renderer=renderer,
    )
    template.start()
    on_stage("loaded the tokenizer", time.perf_counter() - start)
    problem = await _problem_of(template, override=config.model.chat_template is not None)
    ends = await asyncio.to_thread(turn_ends, template, tokenizer) if problem is None else ()
    ready = await client.ready()
    if problem is not None and ready.pooling is None:
        logger.warning("%s: every chat will be refused; serve with --chat-template FILE to chat", problem)
    answers = (
        None if ready.pooling is not None else await asyncio.to_thread(_answer_format, config, template, tokenizer)
    )
    metrics.configure(config.cache, ready)
    template.max_characters = limits_of(config, ready.max_model_len).text_characters  # no more would be tokenized
    return ServerContext(
        config=config,
        client=client,
        tokenizer=tokenizer,
        chat_template=template,
        defaults=defaults,
        turn_ends=ends,
        answer_format=answers,
        turn_stops=() if named is None else named.stops,
        ready=ready,
        metrics=metrics,
    )


def named_template_of(model: ModelConfig, files: ModelFiles, tokenizer: Tokenizer) -> NamedTemplate | None:
    """The built-in template that `--chat-template` names, or that of the model's family where it brings none."""
    if model.chat_template_name is not None:
        return NAMED_TEMPLATES[model.chat_template_name]
    if model.chat_template is not None or tokenizer.chat_templates:
        return None
    found = template_of_family(architecture_names(files), partial(hidden_size, files))
    if found is not None:
        logger.warning(
            "the model has no chat template: chats use the built-in one of its family, %s; serve with --chat-template "
            "%s to say so, or with another one's name or file",
            found.name,
            found.name,
        )
    return found


def _answer_format(config: EngineConfig, template: ChatTemplate, tokenizer: Tokenizer) -> AnswerFormat | None:
    """The format that the model's answers are read by; says in the log where it is from.

    Raises:
        ConfigError: a flag names what the model lacks.
    """
    server, own = config.server, None
    if tokenizer.response_template is not None:
        try:
            own = read_response_template(tokenizer.response_template)
        except TemplateError as error:
            logger.warning("the model's response template is not used: %s", error)
    choice = choose_format(server.tool_call_parser, server.reasoning_parser, template.texts, own)
    for line in choice.lines:
        logger.info("%s", line)
    return choice.answer_format


async def _problem_of(template: ChatTemplate, *, override: bool) -> RequestError | None:
    """The problem with a template, if there is one: the flag's ends the start, without the model's own completions work."""
    try:
        await asyncio.to_thread(template.check)
    except RequestError as error:
        if override:
            raise ConfigError(f"--chat-template can't be used: {error}") from error
        return error
    return None


def tokenizer_of(model: ModelConfig, files: ModelFiles) -> Tokenizer:
    """The model's tokenizer, or the one that `--tokenizer` names: a folder, a file, or another model.

    Raises:
        ModelLoadError: there is none, or it can't be used.
    """
    if model.tokenizer is None and files.weights_format == "dummy" and files.tokenizer is None:
        logger.warning("%s has no tokenizer.json: a byte is a token (--tokenizer names another one)", files.folder)
        return byte_tokenizer()
    if model.tokenizer is None:
        return load_tokenizer(files)
    path = expanded(model.tokenizer)
    path = path / "tokenizer.json" if path.is_dir() else path
    if path.is_file() and path.suffix == ".json":
        template = path.with_name("chat_template.jinja")
        return load_tokenizer_json(path, template if template.is_file() else None)
    if Path(model.tokenizer).is_dir():
        raise ModelLoadError(f"--tokenizer {model.tokenizer}: the folder has no tokenizer.json")
    other = ModelConfig(model=model.tokenizer, served_model_names=(model.tokenizer,), load_format="dummy")
    return load_tokenizer(resolve(other, lambda _what, _done, _total: None))
