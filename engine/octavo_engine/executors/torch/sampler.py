"""Turns hidden rows into tokens and log-probabilities, on the device.

Owns which rows become logits, how requests' parameters lie on the device, and what is read back; the numbers are the
kernels'. Nothing here waits for the device: `Results` is read once the step is done. A request that can't be sampled
gets an error of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from octavo_engine.core.outputs import SchedulerOutput, StepOutput
from octavo_engine.executors.executor import NOT_FINITE
from octavo_engine.executors.torch.device import moved, sent
from octavo_engine.executors.torch.input_batch import RequestState, StepBatch
from octavo_engine.executors.torch.penalty_counts import PenaltyCounts, penalized
from octavo_engine.executors.torch.scores import PROMPT_ROWS, Scored, ScoredRows, best_logprobs, cut, reported
from octavo_engine.kernels.operations import Bans, KnownTokens, Operations, Penalties, TokenCounts
from octavo_engine.kernels.reference_sampling import NUMBERS, SamplingBatch

NEVER = 1 << 62
FLOATS = (*NUMBERS, "repetition_penalty", "frequency_penalty", "presence_penalty")  # of SamplingParams
EVERY_TOKEN_BANNED = -1  # what `Operations.sample` gives where nothing may be drawn; where nothing can be, it is -2


class SamplingTable:
    """The parameters of every request that has a row, on the device: a step picks its own by their rows."""

    def __init__(self, max_requests: int, device: torch.device) -> None:
        self.max_requests = max_requests
        self._held: list[RequestState | None] = [None] * max_requests
        self._plain_from = [0] * max_requests  # tokens from which on a row asks for nothing but a choice
        self.floats = torch.zeros(len(FLOATS), max_requests, dtype=torch.float32, device=device)
        self.ints = torch.zeros(2, max_requests, dtype=torch.int32, device=device)  # top_k, prompt tokens
        self.seeds = torch.zeros(max_requests, dtype=torch.int64, device=device)

    def update(self, states: list[RequestState]) -> None:
        """Send the parameters of those that are new to their row."""
        new = [s for s in states if s.row is not None and self._held[s.row] is not s]
        if not new:
            return
        params = [s.sampling for s in new]
        rows = self._sent([s.row for s in new], torch.int64)
        self.floats[:, rows] = self._sent([[getattr(p, name) for p in params] for name in FLOATS], torch.float32)
        ints = [[max(p.top_k, 0) for p in params], [s.num_prompt_tokens for s in new]]
        self.ints[:, rows] = self._sent(ints, torch.int32)
        self.seeds[rows] = self._sent([_signed(p.seed) for p in params], torch.int64)
        for state in new:  # only now: a step that fails before is tried again, and sends them again
            assert state.row is not None
            self._held[state.row] = state
            self._plain_from[state.row] = _plain_from(state)

    def is_plain(self, batch: StepBatch) -> bool:
        """True if every request draws, from raw logits, and asks for nothing but the token."""
        plain_from = self._plain_from
        return len(batch.drawing) == batch.num_requests and all(
            s.row is not None and plain_from[s.row] <= n for s, n in zip(batch.states, batch.seq_lens, strict=True)
        )

    def _sent(self, values: Sequence[object], dtype: torch.dtype) -> Tensor:
        return sent(values, dtype, self.seeds.device)


@dataclass(frozen=True, slots=True)
class Extras:
    """The options that few requests use, which make a draw more than a choice among raw logits. Rows are drawn rows."""

    biases: tuple[Tensor, Tensor, Tensor] | None  # rows, tokens, values
    allowed: Tensor | None  # [n, ceil(vocab / 32)] int32
    bans: Bans | None
    penalized: bool

    @classmethod
    def of(
        cls, states: list[RequestState], seq_lens: list[int], vocab_size: int, device: torch.device
    ) -> Extras | None:
        """The extras of requests that draw at these lengths; None if none of them asks for anything."""
        biased = [(i, s) for i, s in enumerate(states) if s.sampling.logit_bias]
        bans = [ban for i, (s, n) in enumerate(zip(states, seq_lens, strict=True)) for ban in _bans(i, s, n)]
        bans = [ban for ban in bans if ban[1] < vocab_size]
        listed = any(s.sampling.allowed_token_ids for s in states)
        asking = any(map(penalized, states))
        if not (biased or bans or listed or asking):
            return None
        biases = _biases(biased, device) if biased else None
        allowed = _masks(states, vocab_size, device) if listed else None
        return cls(biases, allowed, _sent_bans(bans, device) if bans else None, asking)


@dataclass(frozen=True, slots=True)
class GrammarMask:
    """The tokens that grammars allow in a step: one bit a token, in whole 32-bit words, a row each of `request_ids`."""

    request_ids: tuple[str, ...]
    bits: bytes

    def narrow(self, extras: Extras | None, states: list[RequestState], device: torch.device) -> Extras:
        """`extras` of a step in which `states` draw, with less allowed."""
        rows = torch.frombuffer(bytearray(self.bits), dtype=torch.int32).view(len(self.request_ids), -1)
        row_of = {request_id: row for row, request_id in enumerate(self.request_ids)}
        every = torch.full_like(rows[0], -1)
        drawing = [rows[row_of[s.request_id]] if s.request_id in row_of else every for s in states]
        allowed = moved(torch.stack(drawing), device)
        if extras is None:
            return Extras(None, allowed, None, penalized=False)
        return replace(extras, allowed=allowed if extras.allowed is None else extras.allowed & allowed)


@dataclass(frozen=True, slots=True)
class Known:
    """A step's extras, and for whom they are: requests in their order, `early` where stop tokens are yet banned."""

    states: list[RequestState]
    early: list[bool]
    extras: Extras | None


@dataclass(slots=True)
class Results:
    """A step's results, on their way to the host. `read` once the device has come to them."""

    drawing: list[RequestState]
    positions: list[int]  # of the drawn tokens
    errors: dict[str, str]
    drawn: Tensor | None = None  # [n] int64; negative: nothing could be drawn
    scored: list[Scored] = field(default_factory=list)
    prompts: list[Scored] = field(default_factory=list)
    pooling: list[RequestState] = field(default_factory=list)
    pooled: Tensor | None = None  # [len(pooling), size] float32

    def read(self, step_id: int) -> StepOutput:
        """Read the results in the core's form; drawn tokens become known to the host's states."""
        tokens: dict[str, list[int]] = {}
        errors, undrawable = dict(self.errors), []
        for state, position, token in zip(self.drawing, self.positions, self._tokens(), strict=True):
            if token >= 0:
                state.take(position, token)
                tokens[state.request_id] = [token]
            elif token == EVERY_TOKEN_BANNED:
                undrawable.append(state.request_id)
                state.error = "every token is banned"
            else:
                state.error = errors[state.request_id] = "the model's logits are not finite numbers"
        out = StepOutput(step_id, tokens, errors=errors, undrawable=tuple(undrawable))
        for state, vector in zip(self.pooling, () if self.pooled is None else self.pooled, strict=True):
            if torch.isfinite(vector).all():
                out.pooled[state.request_id] = vector.numpy().tobytes()
            else:
                out.errors[state.request_id] = NOT_FINITE
        for scored in self.scored:
            for state, entry in zip(scored.states, scored.entries(), strict=True):
                if state.request_id in out.tokens:
                    out.logprobs[state.request_id] = [reported(entry, state.sampling)]
        for scored in self.prompts:
            for state, entry in zip(scored.states, scored.entries(), strict=True):
                wanted = state.sampling.prompt_logprobs or 0
                out.prompt_logprobs.setdefault(state.request_id, []).append(cut(entry, wanted))
        return out

    def _tokens(self) -> list[int]:
        return [] if self.drawn is None else self.drawn.tolist()[: len(self.drawing)]


class Sampler:
    """Draws for a step. `logits_of`: [n, hidden_size] -> raw [n, vocab] float32, a new tensor."""

    def __init__(
        self, ops: Operations, table: SamplingTable, token_ids: Tensor, logits_of: Callable[[Tensor], Tensor]
    ) -> None:
        self._ops = ops
        self.table = table
        self._token_ids = token_ids
        self._logits_of = logits_of
        self._known: Known | None = None
        self._counts = PenaltyCounts(table.max_requests, token_ids.device)

    def draw(
        self,
        logits: Tensor,
        rows: Tensor,
        seq_lens: Tensor,
        extras: Extras | None = None,
        counts: TokenCounts | None = None,
    ) -> Tensor:
        """Draw, and append what is drawn to the device's tokens. Changes `logits` if there are extras.

        logits: [n, vocab], raw; rows: [n] int32, -1: padding; seq_lens: [n] int32; counts: where a row has penalties
        -> [n] int64.
        """
        held = rows.clamp(min=0)
        floats = self.table.floats.index_select(1, held)  # [len(FLOATS), n]
        top_k, prompt_lens = self.table.ints.index_select(1, held)
        positions = seq_lens.long()
        if extras is not None:
            known = KnownTokens(self._token_ids, held, seq_lens, prompt_lens)
            if extras.biases is not None:
                at_rows, tokens, values = extras.biases
                logits.index_put_((at_rows, tokens), values, accumulate=True)
            if extras.allowed is not None or extras.bans is not None:
                self._ops.ban(logits, extras.bans, known, extras.allowed)
            assert extras.penalized == (counts is not None)
            if counts is not None:
                self._ops.penalize(logits, Penalties(floats[-3], floats[-2], floats[-1]), known, counts)
        seeds = self.table.seeds.index_select(0, held)
        numbers = dict(zip(NUMBERS, floats, strict=False))
        batch = SamplingBatch(top_k=top_k, seeds=seeds, positions=positions, **numbers)
        drawn = self._ops.sample(logits, batch)
        self._ops.append_tokens(self._token_ids, rows, positions, drawn)
        return drawn

    def draw_step(
        self,
        batch: StepBatch,
        hidden: Tensor,
        query_starts: Tensor,
        rows: Tensor,
        seq_lens: Tensor,
        drawing: Tensor,
        mask: GrammarMask | None = None,
    ) -> tuple[Tensor | None, list[Scored]]:
        """Draw for `batch.drawing`: (the tokens, log-probabilities of them where they are wanted).

        hidden: [num_tokens, hidden_size], normed; rows, seq_lens: [num_requests]; drawing: the numbers of the
        requests that draw, on the device.
        """
        if not batch.drawing:
            return None, []
        states, lengths = [batch.states[i] for i in batch.drawing], [batch.seq_lens[i] for i in batch.drawing]
        vocab_logits = self._logits_of(hidden[query_starts[1:][drawing] - 1])
        wanting = [i for i, s in enumerate(states) if s.sampling.logprobs is not None]
        extras = self._extras(states, lengths, vocab_logits.shape[1])
        if mask is not None:
            extras = mask.narrow(extras, states, hidden.device)
        raw = vocab_logits.clone() if wanting and extras is not None else vocab_logits
        counts = None
        if extras is not None and extras.penalized:
            counts = self._counts.take(states, lengths, vocab_logits.shape[1])
        drawn = self.draw(vocab_logits, rows[drawing], seq_lens[drawing], extras, counts)
        if counts is not None:
            self._counts.completed(states, lengths)
        rows_of = ScoredRows(states, raw, vocab_logits)
        return drawn, [part.to_host() for part in rows_of.scored(self._ops, wanting, drawn)]

    def score_prompts(self, step: SchedulerOutput, batch: StepBatch, hidden: Tensor) -> list[Scored]:
        """The log-probability of the prompt's next token at each position whose logits are wanted."""
        scored: list[Scored] = []
        end = 0
        for state, count in zip(batch.states, batch.counts, strict=True):
            end += count
            wanted = step.logits_wanted.get(state.request_id, 0)
            if not wanted or state.sampling.prompt_logprobs is None:
                continue
            seq_len = state.num_computed_tokens + count
            first = seq_len - wanted
            last = min(seq_len, state.num_prompt_tokens - 1)  # the last prompt token has no successor in the prompt
            for at in range(first, last, PROMPT_ROWS):
                positions = range(at, min(at + PROMPT_ROWS, last))
                row = end - wanted + at - first
                logits = self._logits_of(hidden[row : row + len(positions)])
                tokens = sent(state.token_ids[at + 1 : positions.stop + 1], torch.int64, hidden.device)
                found = best_logprobs(self._ops, logits, tokens, state.sampling.prompt_logprobs)
                scored.append(Scored([state] * len(positions), tokens, found).to_host())
        return scored

    def _extras(self, states: list[RequestState], lengths: list[int], vocab_size: int) -> Extras | None:
        """The extras; sent only where other requests draw than in the last step, or one has passed its min_tokens."""
        early = [n - s.num_prompt_tokens < s.sampling.min_tokens for s, n in zip(states, lengths, strict=True)]
        known = self._known
        if known is None or known.states != states or known.early != early:
            extras = Extras.of(states, lengths, vocab_size, self._token_ids.device)
            self._known = known = Known(states, early, extras)
        return known.extras


def _plain_from(state: RequestState) -> int:
    s = state.sampling
    scored = s.logprobs is not None or s.prompt_logprobs is not None
    if scored or s.logit_bias or s.allowed_token_ids or s.bad_words or s.grammar or penalized(state):
        return NEVER
    return state.num_prompt_tokens + s.min_tokens


def _bans(row: int, state: RequestState, seq_len: int) -> list[tuple[int, int, tuple[int, ...]]]:
    """(row, token, what the output must end with): stop tokens before min_tokens, and ends of bad words."""
    s = state.sampling
    bans = [(row, word[-1], word[:-1]) for word in s.bad_words]
    if seq_len - state.num_prompt_tokens < s.min_tokens:
        bans += [(row, token, ()) for token in (*s.eos_token_ids, *s.stop_token_ids)]
    return bans


def _sent_bans(bans: list[tuple[int, int, tuple[int, ...]]], device: torch.device) -> Bans:
    starts = [0]
    for *_, prefix in bans:
        starts.append(starts[-1] + len(prefix))
    rows, tokens, prefixes = zip(*bans, strict=True)
    flat = [token for prefix in prefixes for token in prefix]
    n = len(bans)
    numbers = sent([*rows, *tokens, *starts, *flat], torch.int32, device)
    return Bans(*torch.split(numbers, [n, n, n + 1, len(flat)]))


def _biases(biased: list[tuple[int, RequestState]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, tokens and values. A request's own are sent once."""
    for _, state in biased:
        if state.bias is None:
            items = state.sampling.logit_bias
            state.bias = sent([list(items), list(items.values())], torch.float64, device)
    held = torch.cat([state.bias for _, state in biased if state.bias is not None], dim=1)
    counts = sent([len(state.sampling.logit_bias) for _, state in biased], torch.int64, device)
    rows = sent([row for row, _ in biased], torch.int64, device)
    return rows.repeat_interleave(counts, output_size=held.shape[1]), held[0].long(), held[1].float()


def _masks(states: list[RequestState], vocab_size: int, device: torch.device) -> Tensor:
    """[n, ceil(vocab / 32)] int32. A mask is made once for a request, and once for all that share its list."""
    masks: dict[int, Tensor] = {id(s.sampling.allowed_token_ids): s.allowed for s in states if s.allowed is not None}
    for state in states:
        if state.allowed is None:
            listed = state.sampling.allowed_token_ids
            if id(listed) not in masks:
                masks[id(listed)] = _mask(listed, vocab_size).to(device)
            state.allowed = masks[id(listed)]
    return torch.stack([state.allowed for state in states if state.allowed is not None])


def _mask(allowed: tuple[int, ...], vocab_size: int) -> Tensor:
    """Bit t % 32 of word t // 32 for each token that may be drawn; no list allows all."""
    bits = torch.full((-(-vocab_size // 32) * 32,), not allowed)
    if allowed:
        bits[torch.tensor(allowed)] = True
    words = (bits.view(-1, 32).long() << torch.arange(32)).sum(-1)
    return torch.where(words >> 31 == 1, words - (1 << 32), words).int()


def _signed(seed: int) -> int:
    """The seed's 64 bits as a signed number."""
    seed &= 0xFFFF_FFFF_FFFF_FFFF
    return seed - (1 << 64) if seed >> 63 else seed
