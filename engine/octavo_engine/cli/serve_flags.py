"""The flags of `octavo serve`: names, values, defaults and help, in vLLM's spelling.

`arguments` composes the configuration from what is parsed here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import NoReturn

from octavo_engine.cli.adapter_flags import add_adapter_flags
from octavo_engine.cli.api_flags import add_api_flags
from octavo_engine.cli.batch_flags import add_batch_flags
from octavo_engine.cli.device_defaults import DEVICES, by_device, used_here
from octavo_engine.cli.flag_values import (
    at_least,
    fraction,
    json_object,
    max_logprobs,
    model_len,
    non_negative,
    pooling,
    port,
    strings,
    traces_endpoint,
)
from octavo_engine.cli.tls_flags import add_tls_flags
from octavo_engine.cli.vllm_environment import LEVELS
from octavo_engine.errors import ConfigError
from octavo_engine.text.named_templates import NAMES

SWITCH = argparse.BooleanOptionalAction


class FlagParser(argparse.ArgumentParser):
    """argparse, but a mistake is a ConfigError for the caller instead of an exit."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; octavo serve --help lists the flags")

    def format_help(self) -> str:
        self.epilog = used_here()  # asks the driver, which takes a while: not at every start
        return super().format_help()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the flags that are served; each destination is a field of the configuration."""
    parser = FlagParser(prog="octavo serve", allow_abbrev=False, description="Serve a model over the OpenAI API.")
    for title, add in GROUPS.items():
        add(parser.add_argument_group(title))
    return parser


def _model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("model_positional", metavar="MODEL", nargs="?", help="a path, org/name, hf://…, package://…")
    add("--model", help="the same as MODEL, as a flag")
    add("--served-model-name", nargs="+", metavar="NAME", help="names that requests may use; default: MODEL")
    add("--revision", help="branch, tag or commit on the hub; default: main")
    add("--file", help="one of several weight files in a repository or folder, such as a GGUF")
    add("--tokenizer", help="path or repository of another tokenizer than the model's")
    add(
        "--dtype",
        choices=("auto", "float32", "float16", "bfloat16", "half", "float"),
        default="auto",
        help="auto: as stored, packed weights stay packed; otherwise all weights are converted; default: auto",
    )
    add(
        "--load-format",
        choices=("auto", "hf", "safetensors", "gguf", "dummy"),
        default="auto",
        help="dummy: random weights, for benchmarks without a download; default: auto, by the files found",
    )
    add(
        "--model-impl",
        choices=("auto", "octavo", "vllm", "transformers"),
        default="auto",
        help="transformers: its code computes the layers, over the torch executor's KV blocks, for architectures that "
        "are not described; octavo, or vllm: none but described ones; default: auto, transformers where need be",
    )
    add(
        "--runner",
        choices=("auto", "generate", "pooling"),
        default="auto",
        help="pooling: embeddings or scores in place of text; default: auto, by the model's class and modules.json",
    )
    add(
        "--convert",
        choices=("auto", "none", "embed", "classify"),
        default="auto",
        help="what a decoder that pools makes: embeddings, or scores by the tokens that classifier_from_token names; "
        "default: auto",
    )
    add(
        "--pooler-config",
        type=pooling,
        metavar="JSON",
        help="pooling_type (MEAN, CLS, LAST or MAX) in place of the model's own",
    )
    add(
        "--hf-overrides",
        type=json_object,
        metavar="JSON",
        help="fields in place of those of the model's config.json, such as is_matryoshka",
    )
    add(
        "--max-model-len",
        type=model_len,
        metavar="TOKENS",
        help="context length, prompt and output together; -1 or auto: what the memory holds; default: the model's",
    )
    add("--seed", type=at_least(0), default=0, help="of sampling where a request has none; default: 0")
    add(
        "--chat-template",
        metavar="PATH_OR_TEXT_OR_NAME",
        help=f"Jinja template in place of the model's, or the name of a built-in one: {NAMES}",
    )
    add(
        "--chat-template-content-format",
        choices=("auto", "string", "openai"),
        default="auto",
        help="how message content reaches the template: as text or as a list of parts; default: auto, by the template",
    )
    add(
        "--generation-config",
        default="auto",
        metavar="auto|vllm|FOLDER",
        help="sampling defaults: the model's, none, or those of a folder; default: auto",
    )
    add(
        "--tool-call-parser",
        metavar="NAME",
        help="format of the model's tool calls, by vLLM's name; none: they stay text; default: by the chat template",
    )
    add(
        "--reasoning-parser",
        metavar="NAME",
        help="format of its reasoning, likewise; none: it stays in the content; default: by the chat template",
    )
    add(
        "--enable-auto-tool-choice",
        action=SWITCH,
        default=None,
        help="serve tool_choice auto; default: on where the format of tool calls is known",
    )
    add(
        "--exclude-tools-when-tool-choice-none",
        action=SWITCH,
        default=False,
        help="leave tools out of the prompt with tool_choice none; default: off",
    )
    add("--trust-remote-code", action=SWITCH, default=False, help="refused: a model's own code is never run")
    add(
        "--trust-request-chat-template",
        action=SWITCH,
        default=False,
        help="let requests bring a chat_template of their own; default: off",
    )


def _cache(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--block-size", type=at_least(1), default=16, metavar="TOKENS", help="tokens per KV block; default: 16")
    add(
        "--kv-cache-memory-bytes",
        type=at_least(1),
        metavar="BYTES",
        help="size of the KV cache, such as 4G; wins over --gpu-memory-utilization",
    )
    add(
        "--gpu-memory-utilization",
        "--device-memory-utilization",
        type=fraction,
        metavar="FRACTION",
        help="share of the memory for weights, buffers and KV cache; " + by_device("gpu_memory_utilization"),
    )
    add(
        "--num-gpu-blocks-override",
        type=at_least(2),
        metavar="BLOCKS",
        help="number of KV blocks, whatever the memory would hold; for tests of preemption",
    )
    add(
        "--enable-prefix-caching",
        action=SWITCH,
        default=True,
        help="reuse the KV blocks of prompts that begin alike; default: on",
    )
    add(
        "--swap-space",
        type=non_negative,
        metavar="GIB",
        help="host memory for the KV blocks of preempted sequences; default: 4 with a GPU, 0 without",
    )


def _scheduler(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--max-num-seqs", type=at_least(1), metavar="N", help="sequences per step; " + by_device("max_num_seqs"))
    add(
        "--max-num-batched-tokens",
        type=at_least(1),
        metavar="TOKENS",
        help="tokens per step, of prefills and decodes together; " + by_device("max_num_batched_tokens"),
    )
    add(
        "--max-step-seconds",
        type=non_negative,
        default=0.5,
        metavar="SECONDS",
        help="split prefills so that no step takes longer and delays running streams; 0: no limit; default: 0.5",
    )
    add(
        "--scheduling-policy",
        choices=("fcfs", "priority"),
        default="fcfs",
        help="order of waiting requests: by arrival, or by each request's priority; default: fcfs",
    )
    add(
        "--enable-chunked-prefill",
        action=SWITCH,
        default=True,
        help="split long prompts over several steps, between decodes; default: on",
    )
    add(
        "--async-scheduling",
        action=SWITCH,
        default=True,
        help="schedule a step while the previous one runs, where the executor supports it; default: on",
    )
    add(
        "--max-num-queued-reqs",
        type=at_least(0),
        default=1024,
        metavar="N",
        help="waiting requests, beyond which a new one gets 429; default: 1024",
    )
    add(
        "--max-num-queued-tokens",
        type=at_least(0),
        default=2**20,
        metavar="TOKENS",
        help="prompt tokens of waiting requests, beyond which a new one gets 429; default: 1048576",
    )


def _executor(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--executor",
        choices=("native", "torch"),
        help="what runs the model; default: torch if an NVIDIA GPU is present, else native",
    )
    add("--device", choices=DEVICES, help="cuda: exit if no GPU can be used; default: OCTAVO_DEVICE, else auto")
    add(
        "--threads",
        type=at_least(1),
        metavar="N",
        help="threads of all ranks on this machine; default: OMP_NUM_THREADS, else the cores that affinity and CPU "
        "limit allow",
    )
    add("--enforce-eager", action=SWITCH, default=False, help="run without CUDA graphs; default: off")
    add(
        "--kernel-parameters",
        metavar="FILE",
        help="launch parameters that `python -m octavo_engine.kernels.tune` found on a GPU of this kind; default: those "
        "that ship",
    )


def _ranks(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--tensor-parallel-size", "-tp", type=at_least(1), default=1, metavar="N", help="GPUs that share each layer")
    add("--pipeline-parallel-size", "-pp", type=at_least(1), default=1, metavar="N", help="stages of layers")
    add(
        "--enable-expert-parallel",
        "-ep",
        action=SWITCH,
        default=False,
        help="share a mixture's experts out among the GPUs of --tensor-parallel-size, whole; default: each has a slice of "
        "every expert",
    )
    add("--nnodes", "-n", type=at_least(1), default=1, metavar="N", help="machines, each with as many of the ranks")
    add("--node-rank", "-r", type=at_least(0), default=0, metavar="N", help="0 serves HTTP; the others join it")
    add("--master-addr", default="127.0.0.1", metavar="HOST", help="address of node 0, where its ranks listen")
    add("--master-port", type=port, default=29501, metavar="PORT", help="port of the same; default: 29501")
    add("--headless", action=SWITCH, default=False, help="no HTTP server; implied on every node but node 0")
    add(
        "--disable-custom-all-reduce",
        action=SWITCH,
        default=False,
        help="leave all sums between GPUs to NCCL; default: small ones take memory that the GPUs of a machine map",
    )


def _server(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--host", help="address to listen on; default: all interfaces")
    add("--port", type=port, default=8000, help="port to listen on; default: 8000")
    add("--uds", metavar="PATH", help="listen on a Unix socket instead")
    add("--api-key", nargs="+", metavar="KEY", help="keys that requests must bring; or OCTAVO_API_KEY, VLLM_API_KEY")
    add(
        "--api-key-file",
        metavar="PATH",
        help="keys, one a line, read again when the file changes; or OCTAVO_API_KEY_FILE",
    )
    add(
        "--shutdown-timeout",
        type=non_negative,
        default=30.0,
        metavar="SECONDS",
        help="time that running requests have after SIGTERM; default: 30",
    )
    add(
        "--health-timeout",
        type=non_negative,
        default=10.0,
        metavar="SECONDS",
        help="time without progress of the engine, also within a step, after which /health is 503; default: 10",
    )
    add(
        "--start-timeout",
        type=non_negative,
        default=600.0,
        metavar="SECONDS",
        help="time without progress of the start (bytes read or written, a stage done) after which it ends; 0: never; "
        "default: 600",
    )
    add(
        "--max-logprobs",
        type=max_logprobs,
        default=20,
        metavar="N",
        help="log-probabilities per position that a request may ask for; -1: the whole vocabulary; default: 20",
    )
    add(
        "--max-body-bytes",
        type=at_least(1),
        metavar="BYTES",
        help="size of a request's body; default: by the context length, 2 to 32 MiB",
    )
    add(
        "--allowed-origins",
        type=strings,
        nargs="+",
        default=[],
        metavar="ORIGIN",
        help="origins for CORS, as names or as a JSON list; default: none",
    )
    add("--root-path", default="", metavar="PREFIX", help="prefix of all paths behind a proxy that keeps it")
    add(
        "--enable-log-requests",
        action=SWITCH,
        default=False,
        help="log each request's parameters, without prompts; default: off",
    )
    add(
        "--log-level",
        choices=LEVELS,
        default="info",
        help="least severity that is logged; or VLLM_LOGGING_LEVEL; default: info",
    )
    add(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="json: an object a line, the start's progress included, for log collectors; default: text",
    )
    add(
        "--otlp-traces-endpoint",
        type=traces_endpoint,
        metavar="URL",
        help="send an OpenTelemetry span of each request there, by gRPC, or by HTTP with "
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf; needs octavo[otel], which the images have; default: none",
    )
    add("--disable-log-stats", action=SWITCH, default=False, help="no line of statistics in the log; default: off")
    add("--config", metavar="FILE", help="YAML file of flags; those of the command line win over it")


GROUPS: Mapping[str, Callable[[argparse._ArgumentGroup], None]] = {
    "model": _model,
    "KV cache": _cache,
    "scheduler": _scheduler,
    "executor": _executor,
    "ranks": _ranks,
    "server": _server,
    "adapters": add_adapter_flags,
    "API": add_api_flags,
    "files and batches": add_batch_flags,
    "TLS": add_tls_flags,
}
