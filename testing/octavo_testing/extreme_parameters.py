"""Every numeric request parameter at its extremes, as JSON that a client may send, alone and in pairs.

`compose` is the server's own way from a body to `SamplingParams`; what it refuses is a 400.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from octavo_engine.config import EngineConfig, ModelConfig
from octavo_engine.errors import RequestError
from octavo_engine.messages import Ready
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.server.context import ServerContext
from octavo_engine.server.intake.prepare import prepare
from octavo_engine.server.intake.protocol import CompletionBody, parse_body
from octavo_engine.server.intake.tools import NO_TOOLS
from octavo_engine.text.tokenizer import load_tokenizer_json
from octavo_engine.weights.generation_config import GenerationDefaults
from octavo_testing.served import write_model

Case = dict[str, str]  # a JSON literal for each parameter

VOCABULARY = 211  # the model's: the tokenizer of `write_model` has more
PROMPT = [3, 50, 7, 120, 9, 9, 14]
MANY_DIGITS = "9" * 5000
# Denormal and smallest normal numbers of float64 and float32, what overflows float32 and float64, and no numbers.
FLOATS = (
    *("0", "-0.0", "5e-324", "1e-46", "1e-45", "1e-39", "1.2e-38", "1e-6", "2e-5", "0.99999999", "1", "2", "100"),
    *("3.4028235e38", "1e39", "1e308", "1e999", "-5e-324", "-1e-45", "-2", "-1e308", "-1e999"),
    *("NaN", "Infinity", "-Infinity", "true", "null", MANY_DIGITS),
)
INTS = (
    *("-1e308", "-9223372036854775809", "-9223372036854775808", "-2147483649", "-2", "-1", "-0.0", "0", "1", "3"),
    *("1.0", "1.5", "210", "211", "2147483647", "2147483648", "9223372036854775807", "18446744073709551615"),
    *("18446744073709551616", "1e308", "1e999", "NaN", "Infinity", "true", "null", "9" * 400, "9" * 4300, MANY_DIGITS),
)
TOKEN_IDS = (
    *("[]", "[7]", "[7, 7]", "[210]", "[211]", "[257]", "[2147483647]", "[2147483648]", "[-1]", "[1e308]", "[1.5]"),
    *("[NaN]", "[true]", "null", f"[{MANY_DIGITS}]"),
)
EVERY_TOKEN = [f'"{token}"' for token in range(VOCABULARY)]
PARAMETERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"), FLOATS
    ),
    **dict.fromkeys(
        ("top_k", "seed", "n", "max_tokens", "min_tokens", "priority", "logprobs", "prompt_logprobs"), INTS
    ),
    **dict.fromkeys(("allowed_token_ids", "stop_token_ids"), TOKEN_IDS),
    "logit_bias": (
        *(f'{{"7": {value}}}' for value in ("100", "-100", "1e39", "-1e308", "1e-45", "1e999", "NaN", "Infinity")),
        *(f'{{"{key}": 1}}' for key in ("210", "211", "-1", "1e3", "007", "\\u00b2", "9" * 400, MANY_DIGITS)),
        *(f"{{{', '.join(f'{token}: {bias}' for token in EVERY_TOKEN)}}}" for bias in ("100", "-100")),
        *("{}", "null"),
    ),
    "bad_words": ('["a"]', '["ab", "c"]', '["<s>"]', "[]", "null"),
}


def singles() -> Iterator[Case]:
    """Each parameter with each of its extremes."""
    for name, literals in PARAMETERS.items():
        yield from ({name: literal} for literal in literals)


def pairs(context: ServerContext) -> Iterator[Case]:
    """Two parameters each, of the extremes that are accepted and that change how a token is drawn."""
    plain = compose(context, {})
    seen: dict[str, list[SamplingParams]] = {}
    working = []
    for case in singles():
        (name,) = case
        params = outcome(context, case)
        if isinstance(params, RequestError):
            continue
        if params != plain and params not in seen.setdefault(name, []):
            seen[name].append(params)
            working.append(case)
    for one, other in itertools.combinations(working, 2):
        if one.keys() != other.keys():
            yield one | other


def server_context(folder: Path) -> ServerContext:
    """The part of a server that composes a request's parameters, for a tiny model with `VOCABULARY` tokens."""
    config = EngineConfig(model=ModelConfig(model=str(folder), served_model_names=("tiny",), seed=0))
    tokenizer = load_tokenizer_json(write_model(folder) / "tokenizer.json")
    ready = Ready(
        num_blocks=[64],
        block_size=16,
        kv_cache_bytes=0,
        max_model_len=64,
        executor="none",
        stages=[],
        vocab_size=VOCABULARY,
    )
    unused: Any = SimpleNamespace()
    return ServerContext(
        config=config,
        client=unused,
        tokenizer=tokenizer,
        chat_template=unused,
        defaults=GenerationDefaults(eos_token_ids=(2,)),
        turn_ends=(),
        ready=ready,
        metrics=unused,
    )


def compose(context: ServerContext, case: Case) -> SamplingParams:
    """The parameters of a completion that sets `case`: three tokens, of the seed 0 where nothing else is said.

    Raises:
        RequestError: it is refused.
    """
    fields = {"seed": "0", "max_tokens": "3", "ignore_eos": "true"} | case
    literals = ", ".join(f'"{name}": {literal}' for name, literal in fields.items())
    body = parse_body(CompletionBody, f'{{"prompt": {PROMPT}, {literals}}}'.encode())
    (prompt,) = asyncio.run(prepare(context, body, NO_TOOLS))
    return prompt.sampling[0]


def outcome(context: ServerContext, case: Case) -> SamplingParams | RequestError:
    """The composed parameters, or why they are refused."""
    try:
        return compose(context, case)
    except RequestError as error:
        return error


def shown(case: Case) -> str:
    """`case` in a readable form."""
    return ", ".join(
        f"{name}: {literal if len(literal) < 40 else literal[:20] + '…'}" for name, literal in case.items()
    )
