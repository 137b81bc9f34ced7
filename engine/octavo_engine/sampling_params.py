"""The sampling parameters of one sequence, and their bounds. They cross the socket, so they are a msgspec struct.

A parameter is declared here once. A request's field of the same name (`server.intake.protocol`) reaches the executors
without further code; `MODEL_DEFAULTS` are also read from the model's generation_config.json.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from annotated_types import Ge, Gt, Le

# Below it a draw is greedy: vLLM's _SAMPLING_EPS.
LEAST_TEMPERATURE = 1e-5
# Between these a penalized logit neither overflows a float32 nor becomes denormal, which some processors take for zero.
LEAST_REPETITION_PENALTY, MOST_REPETITION_PENALTY = 1e-30, 1e30

# What a request or a model's defaults may ask for.
Temperature = Annotated[float, Ge(0), Le(100)]
TopP = Annotated[float, Gt(0), Le(1)]
TopK = Annotated[int, Ge(-1)]  # -1 is off, as in vLLM
MinP = Annotated[float, Ge(0), Le(1)]
Penalty = Annotated[float, Ge(-2), Le(2)]
RepetitionPenalty = Annotated[float, Gt(0), Le(100)]

# As vLLM has them: of the model's logits, or of those that a token is drawn from (biased, banned, penalized, divided by the
# temperature and cut to what may be drawn); as they are, or as log-probabilities.
LogprobsMode = Literal["raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits"]

MODEL_DEFAULTS = {
    "temperature": Temperature,
    "top_p": TopP,
    "top_k": TopK,
    "min_p": MinP,
    "repetition_penalty": RepetitionPenalty,
}


class ThinkingBudget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The most tokens of reasoning in an answer, and what forces its end. Delimiters are bytes of the answer's text."""

    max_tokens: int
    open: tuple[bytes, ...]  # that reasoning begins with
    close: tuple[bytes, ...]  # that it ends with
    forced: tuple[int, ...]  # the tokens that end it once the budget is used up
    begun: bool = False  # whether the prompt has opened it


class RepetitionDetection(msgspec.Struct, frozen=True, kw_only=True):
    """The repetition that ends an answer: a pattern of so many tokens, so many times in a row."""

    max_pattern_size: int
    min_pattern_size: int
    min_count: int


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Validated and complete: the server resolves defaults, seeds and limits before it sends them.

    Extremes beyond the range of floats are limited here, so that every executor gets the same: a temperature below
    LEAST_TEMPERATURE becomes 0, and the repetition penalty is held between its two bounds.

    Stop strings are not included: the server matches them on text and aborts the request in the core.
    """

    max_tokens: int
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 is off
    min_p: float = 0.0
    seed: int = 0  # always fixed by the server, so that a recompute draws the same tokens
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0  # over prompt and output, as in vLLM
    min_tokens: int = 0  # until then the stop tokens (EOS included) cannot be drawn
    ignore_eos: bool = False
    eos_token_ids: tuple[int, ...] = ()  # the model's own
    stop_token_ids: tuple[int, ...] = ()  # the request's
    logprobs: int | None = None  # None: none; 0: the chosen token's; k: and the k best
    prompt_logprobs: int | None = None
    logprobs_mode: LogprobsMode = "raw_logprobs"  # what `logprobs` are; those of prompts are always raw ones
    logprob_token_ids: tuple[int, ...] = ()  # reported in place of the best, after the chosen token
    logit_bias: dict[int, float] = {}
    allowed_token_ids: tuple[int, ...] = ()  # empty: all
    bad_words: tuple[tuple[int, ...], ...] = ()  # token sequences that may not be completed
    thinking: ThinkingBudget | None = None
    repetition_detection: RepetitionDetection | None = None
    grammar: str = ""  # what the answer must match, as llguidance reads it; empty: anything

    def __post_init__(self) -> None:
        if 0.0 < self.temperature < LEAST_TEMPERATURE:
            msgspec.structs.force_setattr(self, "temperature", 0.0)
        if not LEAST_REPETITION_PENALTY <= self.repetition_penalty <= MOST_REPETITION_PENALTY:
            held = min(max(self.repetition_penalty, LEAST_REPETITION_PENALTY), MOST_REPETITION_PENALTY)
            msgspec.structs.force_setattr(self, "repetition_penalty", held)
