"""The values between scheduler and executor: a step's work, and its results. Plain frozen data; no torch, no numpy.

Ranks exchange them as msgpack.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from octavo_engine.messages import TokenLogprob
from octavo_engine.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class NewRequest:
    """A request that is new to the executor. `block_ids` has one list a KV group; block 0 is the null block.

    `output_token_ids` is empty unless the request is sent again after a step that failed: then they are what it has
    drawn so far, they follow the prompt, and penalties count them as output.
    """

    request_id: str
    token_ids: list[int]  # the prompt
    sampling: SamplingParams
    block_ids: tuple[list[int], ...]
    num_computed_tokens: int
    adapter_id: int = 0
    output_token_ids: list[int] = field(default_factory=list)
    second_segment: int = 0  # position of its first token (a cross-encoder's document); 0: there is one segment


class ContinuedRequest(msgspec.Struct, frozen=True, gc=False):
    """A request that the executor has. A struct, not a dataclass: hundreds are made in every step.

    `block_ids` are appended to its tables; with `resumed` (after a preemption) they replace them.
    `num_computed_tokens` is authoritative: the first scheduled token has this position. The executor keeps the
    token ids itself: the prompt and every token that it sampled.
    """

    request_id: str
    block_ids: tuple[list[int], ...]
    num_computed_tokens: int
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class KVOps:
    """Block moves that come before the forward: (group, from, to); swaps are between device and host blocks."""

    copies: tuple[tuple[int, int, int], ...] = ()
    swap_in: tuple[tuple[int, int, int], ...] = ()
    swap_out: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class SchedulerOutput:
    """One step's work. The order of `num_scheduled_tokens` is the order of the batch.

    A request's scheduled tokens are those at positions num_computed_tokens … + num_scheduled_tokens - 1.
    `logits_wanted[id]` is how many of its last scheduled positions need logits: 1 to sample the next token (only
    once every known token is scheduled), all of them for prompt logprobs; a request absent from it (a chunk of
    a prefill) gets no token. `finished_ids` ended since the last step: their state is dropped before anything else, and
    ids that the executor does not have are ignored. An id may be in `finished_ids` and in `new`: it starts again.
    """

    step_id: int
    new: tuple[NewRequest, ...]
    continued: tuple[ContinuedRequest, ...]
    num_scheduled_tokens: dict[str, int]
    logits_wanted: dict[str, int]
    samples: frozenset[str]  # those of `logits_wanted` that draw a token
    finished_ids: tuple[str, ...] = ()
    draft_tokens: dict[str, list[int]] = field(default_factory=dict)
    kv_ops: KVOps = KVOps()
    constrained: tuple[str, ...] = ()  # those of `samples` that a grammar constrains, in the batch's order

    @property
    def num_scored_tokens(self) -> int:
        """The number of prompt tokens whose log-probabilities are computed."""
        return sum(
            count for request_id, count in self.logits_wanted.items() if count > 1 or request_id not in self.samples
        )

    @property
    def total_tokens(self) -> int:
        return sum(self.num_scheduled_tokens.values())


@dataclass(frozen=True, slots=True)
class StepOutput:
    """The results of one step. `tokens[id]` has 0 to k+1 tokens; `errors[id]` ends that request alone.

    `undrawable` are requests that ban every token: they end too, but their computed blocks are valid.
    `prompt_logprobs[id]` has an entry for each position whose logits were requested and whose next token is known
    from the prompt: the log-probability of that next token. `pooled[id]` is a vector of float32, little-endian.
    """

    step_id: int
    tokens: dict[str, list[int]]
    logprobs: dict[str, list[TokenLogprob]] = field(default_factory=dict)
    prompt_logprobs: dict[str, list[TokenLogprob]] = field(default_factory=dict)
    pooled: dict[str, bytes] = field(default_factory=dict)
    drafts: dict[str, list[int]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    undrawable: tuple[str, ...] = ()
