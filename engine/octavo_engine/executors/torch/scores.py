"""The log-probabilities of drawn tokens and of prompts, on the device and on their way to the host.

Owns which row of logits a request's are of (`SamplingParams.logprobs_mode`); nothing here waits for the device, but for what
a draw is cut to (`processed_…` with top_k or top_p).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from octavo_engine.executors.torch.device import sent
from octavo_engine.executors.torch.input_batch import RequestState
from octavo_engine.kernels.operations import Logprobs, Operations
from octavo_engine.kernels.reference_sampling import drawn_from
from octavo_engine.messages import TokenLogprob
from octavo_engine.sampling_params import SamplingParams

PROMPT_ROWS = 64  # a large vocabulary's logits of a whole prompt would take gigabytes
MOST_TOP = 32  # the kernels' limit of `num_top`


@dataclass(slots=True)
class Scored:
    """Log-probabilities on their way to the host: those of `states[i]` are rows i, for these of their tokens."""

    states: list[RequestState]
    tokens: Tensor  # [n]
    found: Logprobs

    def to_host(self) -> Scored:
        """Start the copy to the host, without waiting."""
        found = self.found
        moved = (x.to("cpu", non_blocking=True) for x in (found.own, found.ranks, found.top_ids, found.top))
        return Scored(self.states, self.tokens.to("cpu", non_blocking=True), Logprobs(*moved))

    def entries(self) -> list[TokenLogprob]:
        found = self.found
        ids, top = found.top_ids.tolist(), found.top.tolist()
        own, ranks = found.own.tolist(), found.ranks.tolist()
        return [
            TokenLogprob(token_id=token, logprob=own[i], rank=ranks[i], top=list(zip(ids[i], top[i], strict=True)))
            for i, token in enumerate(self.tokens.tolist())
        ]


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """The rows of a step's draws: of `states[i]` row i. raw: the model's logits; final: after bans, biases and penalties."""

    states: list[RequestState]
    raw: Tensor  # [n, vocab] float32
    final: Tensor  # [n, vocab] float32; may be the same

    def scored(self, ops: Operations, wanting: Sequence[int], drawn: Tensor) -> Iterator[Scored]:
        """The log-probabilities of the rows `wanting`, for the tokens `drawn` [n]."""
        few = []
        for i in wanting:
            sampling = self.states[i].sampling
            raw = sampling.logprobs_mode == "raw_logprobs"
            if raw and not sampling.logprob_token_ids and 0 <= (sampling.logprobs or 0) <= MOST_TOP:
                few.append(i)
            else:
                yield self._alone(i, drawn[i : i + 1])
        if few:
            at = sent(few, torch.int64, drawn.device)
            most = max(self.states[i].sampling.logprobs or 0 for i in few)
            found = ops.logprobs(self.raw[at], drawn[at], min(most, self.raw.shape[1]))
            yield Scored([self.states[i] for i in few], drawn[at], found)

    def _alone(self, i: int, token: Tensor) -> Scored:
        """Log-probabilities of one row, which no kernel makes."""
        sampling = self.states[i].sampling
        row = drawn_from(self.final[i], sampling) if sampling.logprobs_mode.startswith("processed") else self.raw[i]
        scores = row if sampling.logprobs_mode.endswith("logits") else row.log_softmax(-1)
        named = sampling.logprob_token_ids
        found = named_scores(scores, token[0], named) if named else all_scores(scores[None], token)
        return Scored([self.states[i]], token, found)


def best_logprobs(ops: Operations, logits: Tensor, tokens: Tensor, num_top: int) -> Logprobs:
    """The log-probabilities of `tokens` [n] and of at least the `num_top` best (-1: all). logits: [n, vocab] float32."""
    if 0 <= num_top <= MOST_TOP:
        return ops.logprobs(logits, tokens, min(num_top, logits.shape[1]))
    return all_scores(logits.log_softmax(-1), tokens)


def all_scores(scores: Tensor, tokens: Tensor) -> Logprobs:
    """`Operations.logprobs` with the whole vocabulary as the top, of `scores` [n, vocab] as they are."""
    own = scores.gather(1, tokens.clamp(min=0)[:, None])
    top = scores.sort(dim=-1, descending=True, stable=True)
    return Logprobs(own[:, 0], (scores > own).sum(-1) + 1, top.indices, top.values)


def named_scores(scores: Tensor, token: Tensor, named: Sequence[int]) -> Logprobs:
    """The score of the drawn `token`, and as the top its own and those of `named`. scores: [vocab]."""
    token = token.clamp(min=0)
    ids = torch.cat([token[None], sent(list(named), torch.int64, scores.device)])
    own = scores[token]
    return Logprobs(own[None], (scores > own).sum()[None] + 1, ids[None], scores[ids][None])


def reported(entry: TokenLogprob, sampling: SamplingParams) -> TokenLogprob:
    """The part of `entry` that a request has asked for. Of a top that was named, the drawn token, which begins it, is there
    once; of the best, what can't be drawn is none.
    """
    if sampling.logprob_token_ids:
        rest = [pair for pair in entry.top[1:] if pair[0] != entry.token_id]
        return TokenLogprob(entry.token_id, entry.logprob, entry.rank, [entry.top[0], *rest])
    found = cut(entry, sampling.logprobs or 0)
    if sampling.logprobs_mode.startswith("processed"):
        possible = [pair for pair in found.top if pair[1] > float("-inf")]
        return TokenLogprob(entry.token_id, entry.logprob, entry.rank, possible)
    return found


def cut(entry: TokenLogprob, num_top: int) -> TokenLogprob:
    """`entry` with the `num_top` best of its top; -1: with all."""
    if num_top < 0 or len(entry.top) == num_top:
        return entry
    return TokenLogprob(entry.token_id, entry.logprob, entry.rank, entry.top[:num_top])
