"""A request inside the core: its tokens, blocks and status. Only the scheduler and its managers change it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from octavo_engine.core.block_hashes import chain_root
from octavo_engine.core.repetition import RepetitionWatch
from octavo_engine.core.swapping import Swapped
from octavo_engine.core.thinking import Thinking
from octavo_engine.messages import EngineOutput
from octavo_engine.sampling_params import SamplingParams

if TYPE_CHECKING:
    from octavo_engine.messages import EngineRequest, PoolingRequest, TokenLogprob

NEVER = 1 << 62  # a token count that no sequence reaches
NOTHING = SamplingParams(max_tokens=0)  # what a prompt that is pooled draws


class Status(Enum):
    """The status of a sequence. PREEMPTED waits like WAITING, to be recomputed or swapped in."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Sequence:
    """Prompt and output of one request, and what has been computed of it.

    Invariants: `num_computed <= len(token_ids) + num_pending`; while running, every table covers `capacity` tokens; a block's entry
    is 0 where a window has left it behind. `digests[i]` names the content of block i, for full blocks only.
    """

    request_id: str
    token_ids: list[int]  # prompt and output
    num_prompt_tokens: int
    sampling: SamplingParams
    adapter_id: int
    order: tuple[int, int, int]  # what runs first: (1 in the background, priority, arrival); never equal for two
    root: bytes  # what the first block's digest is chained to
    max_num_tokens: int  # it ends with "length" here: prompt + max_tokens, or the model's length
    stop_ids: frozenset[int]  # EOS included unless ignored
    use_prefix_cache: bool
    status: Status = Status.WAITING
    num_computed: int = 0  # tokens whose KV is in its blocks, or will be by a step in flight
    num_pending: int = 0  # tokens that steps in flight draw: they follow `token_ids`, and are not known yet
    epoch: int = 0  # results of parts that were scheduled in an earlier one are discarded
    tables: tuple[list[int], ...] = ()
    first_blocks: list[int] = field(default_factory=list)  # per group: the first table entry that is still held
    capacity: int = 0  # tokens that the tables can hold
    num_filled: int = 0  # blocks entered into the prefix cache
    next_fill: int = NEVER  # the number of computed tokens at which the next block is full
    digests: list[bytes] = field(default_factory=list)
    swapped: Swapped | None = None  # while preempted: what of it is in host memory
    in_executor: bool = False  # the executor has its state
    forks: bool = False  # it shares blocks with the other choices of its prompt where nothing else is cached
    needs_prompt_logprobs: bool = False
    prompt_logprobs: list[TokenLogprob | None] = field(default_factory=list)  # that no output has carried yet
    num_scored: int = 0  # log-probabilities of its prompt that were computed since it started or started again
    num_kept: int = 0  # the most of them ever: what is computed again is not sent again
    pools: bool = False  # its prompt is computed whole, draws nothing, and ends with a vector
    thinking: Thinking | None = None  # of an answer whose reasoning has a budget
    repetition: RepetitionWatch | None = None  # of an answer that ends where it repeats itself
    second_segment: int = 0  # as in `PoolingRequest`
    num_cached_tokens: int = 0
    num_preemptions: int = 0
    queued_at: float = 0.0
    scheduled_at: float = 0.0

    @classmethod
    def from_request(
        cls,
        request: EngineRequest,
        *,
        order: tuple[int, int, int],
        max_model_len: int,
        queued_at: float,
        thinking: Thinking | None = None,
    ) -> Sequence:
        """The sequence that begins with `request`'s prompt."""
        repetition = request.sampling.repetition_detection
        sampling = request.sampling
        stop = sampling.stop_token_ids if sampling.ignore_eos else sampling.stop_token_ids + sampling.eos_token_ids
        num_prompt_tokens = len(request.prompt_token_ids)
        logprobs = sampling.prompt_logprobs is not None
        return cls(
            request_id=request.request_id,
            token_ids=list(request.prompt_token_ids),
            num_prompt_tokens=num_prompt_tokens,
            sampling=sampling,
            adapter_id=request.adapter_id,
            order=order,
            root=chain_root(request.cache_salt, request.adapter_id),
            forks=bool(request.fork),
            max_num_tokens=min(num_prompt_tokens + sampling.max_tokens, max_model_len),
            stop_ids=frozenset(stop),
            use_prefix_cache=not logprobs,
            needs_prompt_logprobs=logprobs,
            prompt_logprobs=[None] if logprobs else [],
            thinking=thinking,
            repetition=None if repetition is None else RepetitionWatch(repetition),
            queued_at=queued_at,
        )

    @classmethod
    def from_pooling_request(
        cls, request: PoolingRequest, *, order: tuple[int, int, int], queued_at: float
    ) -> Sequence:
        """The sequence that is `request`'s prompt."""
        num_tokens = len(request.prompt_token_ids)
        return cls(
            request_id=request.request_id,
            token_ids=list(request.prompt_token_ids),
            num_prompt_tokens=num_tokens,
            sampling=NOTHING,
            adapter_id=0,
            order=order,
            root=b"",
            max_num_tokens=num_tokens,
            stop_ids=frozenset(),
            use_prefix_cache=False,
            pools=True,
            second_segment=request.second_segment,
            queued_at=queued_at,
        )

    @property
    def in_background(self) -> bool:
        """True for a batch's row, which has only what others leave."""
        return self.order[0] == 1

    def discard_in_flight(self) -> None:
        """Discard the results of steps in flight: their tokens will be computed again."""
        self.epoch += 1
        self.num_pending = 0

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def needs_mask(self) -> bool:
        """True if the draw that is being scheduled, which `num_pending` counts, needs a mask: of its grammar, or to force a token."""
        if self.sampling.grammar:
            return True
        return self.thinking is not None and self.thinking.may_force(self.num_pending - 1)

    def take(self, drawn: list[int]) -> tuple[list[int], str | None]:
        """Append drawn tokens up to one that ends the sequence. Returns those appended, and the finish reason, if any."""
        token_ids = self.token_ids
        for used, token in enumerate(drawn, 1):
            token_ids.append(token)
            if self.thinking is not None:
                self.thinking.note(token)
            repeats = self.repetition is not None and self.repetition.note(token_ids, self.num_output_tokens)
            if token in self.stop_ids and self.num_output_tokens >= self.sampling.min_tokens:
                return drawn[:used], "stop"
            if len(token_ids) >= self.max_num_tokens:
                return drawn[:used], "length"
            if repeats and self.num_output_tokens >= self.sampling.min_tokens:
                return drawn[:used], "repetition"
        return drawn, None

    def score(self, entries: list[TokenLogprob]) -> None:
        """Add the log-probabilities of the prompt's tokens that a step has computed."""
        self.prompt_logprobs += entries[max(0, self.num_kept - self.num_scored) :]
        self.num_scored += len(entries)
        self.num_kept = max(self.num_kept, self.num_scored)

    def take_prompt_logprobs(self) -> list[TokenLogprob | None] | None:
        """The log-probabilities of the prompt that no output has carried yet."""
        taken, self.prompt_logprobs = self.prompt_logprobs, []
        return taken or None

    def output(
        self,
        token_ids: list[int],
        reason: str | None,
        *,
        error: str | None = None,
        refused: bool = False,
        logprobs: list[TokenLogprob] | None = None,
        first: bool = False,
        pooled: bytes | None = None,
    ) -> EngineOutput:
        """A first or a last output, with the fields that are sent once."""
        stopped_by = None
        if (
            reason == "stop"
            and token_ids
            and (self.sampling.ignore_eos or token_ids[-1] not in self.sampling.eos_token_ids)
        ):
            stopped_by = token_ids[-1]
        return EngineOutput(
            request_id=self.request_id,
            new_token_ids=token_ids,
            finish_reason=reason,
            stop_token_id=stopped_by,
            error=error,
            refused=refused,
            logprobs=logprobs,
            prompt_logprobs=self.take_prompt_logprobs() if first else None,
            pooled=pooled,
            num_cached_tokens=self.num_cached_tokens,
            num_preemptions=self.num_preemptions,
            queued_at=self.queued_at,
            scheduled_at=self.scheduled_at,
        )
