"""The flags of the API's own behavior: what answers hold beside the model's text, and which endpoints there are."""

from __future__ import annotations

import argparse
from typing import get_args

from octavo_engine.cli.flag_values import at_least, json_object, reasoning_config
from octavo_engine.config import ApiConfig
from octavo_engine.sampling_params import LogprobsMode

SWITCH = argparse.BooleanOptionalAction


def add_api_flags(group: argparse._ArgumentGroup) -> None:
    """Add them to `group`; `api_config` reads them."""
    add = group.add_argument
    add("--response-role", default="assistant", metavar="ROLE", help="role of answers to chats; default: assistant")
    add(
        "--default-chat-template-kwargs",
        type=json_object,
        default="{}",
        metavar="JSON",
        help="variables of the chat template, such as enable_thinking, where a request's chat_template_kwargs lacks them",
    )
    add(
        "--override-generation-config",
        type=json_object,
        metavar="JSON",
        help="sampling defaults in place of the model's, such as temperature",
    )
    add(
        "--logprobs-mode",
        choices=get_args(LogprobsMode),
        default="raw_logprobs",
        help="what the log-probabilities of answers are: of the model's logits or, processed, of those that tokens are drawn "
        "from (banned, penalized, divided by the temperature, cut); or these logits themselves; default: raw_logprobs",
    )
    add(
        "--reasoning-config",
        type=reasoning_config,
        default={},
        metavar="JSON",
        help="reasoning_start_str and reasoning_end_str: delimiters of reasoning besides those of --reasoning-parser; the "
        "second one is written where thinking_token_budget is used up",
    )
    add(
        "--stream-interval",
        type=at_least(1),
        default=1,
        metavar="TOKENS",
        help="tokens of an answer in each event of a stream but the first; default: 1",
    )
    add(
        "--enable-force-include-usage",
        action=SWITCH,
        default=False,
        help="say the usage so far in every event of a stream; without it, as stream_options asks; default: off",
    )
    add(
        "--enable-prompt-tokens-details",
        action=SWITCH,
        default=False,
        help="say in usage.prompt_tokens_details how many prompt tokens were cached; default: off",
    )
    add(
        "--enable-per-request-metrics",
        action=SWITCH,
        default=False,
        help="say the times of an answer of one choice in its `metrics`, of a stream in the chunk with the usage; "
        "default: off",
    )
    add(
        "--return-tokens-as-token-ids",
        action=SWITCH,
        default=False,
        help="spell tokens as token_id:123 in log-probabilities; without it, where a request asks for it; default: off",
    )
    add(
        "--enable-log-outputs",
        action=SWITCH,
        default=False,
        help="log the beginning of each answer's text, with --enable-log-requests; default: off",
    )
    add(
        "--disable-fastapi-docs",
        action=SWITCH,
        default=False,
        help="do not serve /openapi.json, /docs and /redoc, which describe the API; default: off",
    )
    add(
        "--enable-tokenizer-info-endpoint",
        action=SWITCH,
        default=False,
        help="serve GET /tokenizer_info, which shows the chat template; default: off",
    )
    add(
        "--enable-scale-out",
        action=SWITCH,
        default=False,
        help="serve rendering, derendering and generation from token ids as endpoints of their own; default: off",
    )
    add(
        "--tokens-only",
        action=SWITCH,
        default=False,
        help="generate from token ids without texts or stop strings, with --enable-scale-out; default: off",
    )
    add(
        "--enable-development-endpoints",
        action=SWITCH,
        default=False,
        help="serve /pause, /resume, /sleep, /reset_prefix_cache and the like, which any client with access may call; or "
        "VLLM_SERVER_DEV_MODE=1; default: off",
    )
    add(
        "--enable-sleep-mode",
        action=SWITCH,
        default=False,
        help="accepted for vLLM; /sleep and /wake_up come with the development endpoints; default: off",
    )


def api_config(options: argparse.Namespace) -> ApiConfig:
    """The part of the configuration that these flags make."""
    return ApiConfig(
        response_role=options.response_role,
        chat_template_kwargs=options.default_chat_template_kwargs,
        stream_interval=options.stream_interval,
        prompt_tokens_details=options.enable_prompt_tokens_details,
        force_include_usage=options.enable_force_include_usage,
        return_tokens_as_token_ids=options.return_tokens_as_token_ids,
        log_outputs=options.enable_log_outputs and options.enable_log_requests,
        docs=not options.disable_fastapi_docs,
        tokenizer_info=options.enable_tokenizer_info_endpoint,
        scale_out=options.enable_scale_out or options.tokens_only,
        tokens_only=options.tokens_only,
        per_request_metrics=options.enable_per_request_metrics,
        logprobs_mode=options.logprobs_mode,
        reasoning_start=options.reasoning_config.get("reasoning_start_str", ""),
        reasoning_end=options.reasoning_config.get("reasoning_end_str", ""),
        development=options.enable_development_endpoints,
    )
