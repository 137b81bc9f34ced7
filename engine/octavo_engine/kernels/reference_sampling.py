"""Draws a token from logits, in plain torch: the twin that every sampler is tested against.

Owns the order of processing, the treatment of ties and the random numbers, so that executors sample alike. Works
on one request's row at a time; independent of batches, requests and text.

A draw depends on (seed, position, token id) alone: not on the batch, the step, or how often it is repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:  # the kernels' tests run where torch and triton are all there is
    from octavo_engine.sampling_params import SamplingParams

# Philox4x32-10: the multipliers and Weyl constants of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
# (SC 2011), and of their library Random123.
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
PHILOX_ROUNDS = 10
MASK = 0xFFFFFFFF


class Drawing(Protocol):
    """The fields of `SamplingParams` that choose among processed logits."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def top_p(self) -> float: ...
    @property
    def min_p(self) -> float: ...
    @property
    def seed(self) -> int: ...


NUMBERS = ("temperature", "top_p", "min_p")  # the float32 parameters of a draw, in both classes that follow


@dataclass(frozen=True, slots=True)
class Filters:
    """A `Drawing` without a request."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """The parameters of n rows' draws, on the device; those in NUMBERS are filled by name."""

    temperature: Tensor  # [n] float32; 0: greedy
    top_k: Tensor  # [n] int32; 0: off
    top_p: Tensor  # [n] float32; 1: off
    min_p: Tensor  # [n] float32; 0: off
    seeds: Tensor  # [n] int64
    positions: Tensor  # [n] int64: the drawn token's own, which is how many tokens come before it; 0: padding

    @classmethod
    def of(
        cls, draws: Sequence[Drawing], positions: Sequence[int], device: torch.device | None = None
    ) -> SamplingBatch:
        """A row for each of `draws`; for tests and benchmarks, since the executor keeps its requests' rows on the device."""

        def column(name: str, dtype: torch.dtype) -> Tensor:
            return torch.tensor([getattr(draw, name) for draw in draws], dtype=dtype, device=device)

        return cls(
            top_k=column("top_k", torch.int32),
            seeds=column("seed", torch.int64),
            positions=torch.tensor(positions, dtype=torch.int64, device=device),
            **{name: column(name, torch.float32) for name in NUMBERS},
        )


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of the product of two 32-bit numbers, without leaving signed 64-bit arithmetic."""
    low_half, high_half = (b & 0xFFFF) * a, (b >> 16) * a  # each under 2^48
    middle = (low_half >> 16) + high_half
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low_half & 0xFFFF)


def philox(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """Philox4x32-10. counter: [..., 4] int64 holding 32-bit words; key: two words -> [..., 4] int64, 32-bit words."""
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key
    for _ in range(PHILOX_ROUNDS):
        high0, low0 = _multiply(PHILOX_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(PHILOX_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + PHILOX_WEYL[0]) & MASK, (k1 + PHILOX_WEYL[1]) & MASK
    return torch.stack((c0, c1, c2, c3), -1)


def gumbel_noise(vocab_size: int, seed: int, position: int, device: torch.device | None = None) -> Tensor:
    """One standard Gumbel number for each token: [vocab_size], float32.

    Counter (token >> 2, position, 0, 0), key the low and high words of `seed`; token t takes word t & 3, as
    u = ((word >> 8) + 0.5) · 2⁻²⁴ and -log(-log u). `position` is the drawn token's own.
    """
    blocks = torch.arange(-(-vocab_size // 4), dtype=torch.int64, device=device)
    counter = torch.zeros(blocks.numel(), 4, dtype=torch.int64, device=device)
    counter[:, 0] = blocks
    counter[:, 1] = position & MASK
    words = philox(counter, (seed & MASK, (seed >> 32) & MASK)).flatten()[:vocab_size]
    # u is exact in float64; float32 would round the largest to 1 and make the noise infinite.
    u = ((words >> 8).double() + 0.5) * 2.0**-24
    return (-torch.log(-torch.log(u))).float()


def process_logits(logits: Tensor, prompt: Sequence[int], output: Sequence[int], params: SamplingParams) -> Tensor:
    """Everything that changes logits before temperature. logits: [vocab] -> a new [vocab], float32.

    In this order: logit_bias is added; all but the allowed tokens are banned; stop tokens are banned until
    min_tokens; a token that would complete one of bad_words within the output is banned; then the penalties of
    repetition (over prompt and output: divides a positive logit, multiplies a negative one), frequency and presence
    (over the output). A ban is -inf. Semantics are vLLM's, except that a penalized logit stays finite.
    """
    x = logits.float().clone()
    vocab = x.shape[0]
    for token, bias in params.logit_bias.items():
        x[token] += bias
    if params.allowed_token_ids:
        allowed = torch.zeros(vocab, dtype=torch.bool, device=x.device)
        allowed[list(params.allowed_token_ids)] = True
        x.masked_fill_(~allowed, -torch.inf)
    if len(output) < params.min_tokens:
        for token in (*params.eos_token_ids, *params.stop_token_ids):
            if token < vocab:
                x[token] = -torch.inf
    for word in params.bad_words:
        prefix = word[:-1]
        if not prefix or tuple(output[-len(prefix) :]) == prefix:
            x[word[-1]] = -torch.inf
    return apply_penalties(
        x,
        prompt,
        output,
        repetition=params.repetition_penalty,
        frequency=params.frequency_penalty,
        presence=params.presence_penalty,
    )


def apply_penalties(
    logits: Tensor,
    prompt: Sequence[int],
    output: Sequence[int],
    *,
    repetition: float,
    frequency: float,
    presence: float,
) -> Tensor:
    """The last step of `process_logits`. logits: [vocab] float32 -> a new one.

    What would overflow stops at the largest float32. Bans, and what is no number, stay what they are.
    """
    x = logits.clone()
    vocab = x.shape[0]
    if repetition != 1.0:
        seen = sorted({t for t in (*prompt, *output) if t < vocab})
        at = torch.tensor(seen, dtype=torch.int64, device=x.device)
        values = x[at]
        x[at] = torch.where(values > 0, values / repetition, values * repetition)
    if (frequency or presence) and output:
        ids = torch.tensor(list(output), dtype=torch.int64, device=x.device)
        counts = torch.bincount(ids, minlength=vocab).float()
        x -= frequency * counts + presence * (counts > 0)
    largest = torch.finfo(torch.float32).max
    return torch.where(logits.isfinite(), x.clamp(-largest, largest), logits)


def first_argmax(x: Tensor) -> int:
    """The index of the largest element; among equals, the lowest. x: [n]."""
    return int((x == x.max()).nonzero()[0, 0])


def candidates(logits: Tensor, params: Drawing) -> Tensor:
    """The tokens that may be drawn at all: a mask [vocab] of logits already divided by temperature, bans -inf.

    min_p keeps tokens whose probability is at least min_p times the largest. Then top_k keeps the k best. Then
    top_p keeps, of the probabilities renormalised over what is left, the smallest set of the best whose sum reaches
    top_p: a token stays while the sum before it is below top_p. Equals are ordered by token id, the lowest first,
    so that exactly k tokens stay, and the set is one. Sums are in float64.
    """
    kept = logits > -torch.inf
    if params.min_p > 0.0:
        # p >= min_p * p_max, in logarithms
        kept &= logits >= logits.max() + torch.log(torch.tensor(params.min_p, dtype=torch.float32))
    if params.top_k > 0 or params.top_p < 1.0:
        order = logits.masked_fill(~kept, -torch.inf).sort(descending=True, stable=True).indices
        order = order[: int(kept.sum())]
        if params.top_k > 0:
            order = order[: params.top_k]
        if params.top_p < 1.0:
            probabilities = logits[order].double().softmax(-1)
            before = probabilities.cumsum(-1) - probabilities
            staying = before < params.top_p
            staying[0] = True
            order = order[staying]
        kept = torch.zeros_like(kept)
        kept[order] = True
    return kept


def drawn_from(logits: Tensor, params: Drawing) -> Tensor:
    """The logits that a draw chooses among: processed ones [vocab] over the temperature, -inf where a token is not among
    its `candidates`. Those of a greedy draw are as they were.
    """
    best = logits.max()
    if params.temperature == 0.0 or not torch.isfinite(best):
        return logits
    kept = candidates((logits - best) / params.temperature, params)
    largest = torch.finfo(torch.float32).max
    scaled = (logits.double() / params.temperature).clamp(-largest, largest).float()
    return scaled.masked_fill(~kept, -torch.inf)


def sample(logits: Tensor, params: Drawing, position: int) -> int:
    """Draw from processed logits [vocab]: the argmax of logit / temperature + Gumbel noise over the candidates.

    The largest logit is subtracted before the division, so that the best is finite at every temperature; what the
    division takes to -inf has no chance. Temperature 0 is greedy. `position` is the drawn token's own: how many tokens
    come before it.

    Raises:
        ValueError: no token can be drawn, because all are banned or the logits aren't numbers.
    """
    best = logits.max()
    if not torch.isfinite(best):
        why = "every token is banned" if best == -torch.inf else f"the largest logit is {best.item()}"
        raise ValueError(f"no token can be drawn: {why}")
    if params.temperature == 0.0:
        return first_argmax(logits)
    scaled = (logits - best) / params.temperature
    kept = candidates(scaled, params)
    noise = gumbel_noise(logits.shape[0], params.seed, position, logits.device)
    return first_argmax((scaled + noise).masked_fill(~kept, -torch.inf))


def token_logprobs(logits: Tensor, token: int, num_top: int) -> tuple[float, int, list[tuple[int, float]]]:
    """The log-probability of `token` under raw logits [vocab], its rank, and the `num_top` best (-1: all).

    Rank is one more than the number of tokens that are strictly likelier. Equals among the best are ordered by
    token id.
    """
    logprobs = logits.float().log_softmax(-1)
    own = logprobs[token]
    rank = int((logprobs > own).sum()) + 1
    if num_top == 0:
        return float(own), rank, []
    # topk alone does not order equals; a stable sort of what ties with the last one does.
    num_top = logprobs.shape[0] if num_top < 0 else min(num_top, logprobs.shape[0])
    threshold = logprobs.topk(num_top).values[-1]
    near = (logprobs >= threshold).nonzero()[:, 0]
    order = near[logprobs[near].sort(descending=True, stable=True).indices][:num_top]
    return float(own), rank, [(int(t), float(logprobs[t])) for t in order]
