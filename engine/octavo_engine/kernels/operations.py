"""The operations that a decoder on torch calls: one protocol, implemented plainly (`ReferenceOperations`) and by
Triton kernels (`triton.operations.TritonOperations`).

Owns the signatures, shapes and the batch that kernels read; arithmetic is the implementations'. Everything that
changes from step to step is a tensor on the device, so that a step can be captured as a CUDA graph: no method reads
one back. The few host numbers (`max_query_len`, `max_seq_len`, `num_decodes`) only size grids, and may be bounds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from octavo_engine.kernels.adapter_weights import AdapterRows, AdapterWeights
from octavo_engine.kernels.expert_weights import ExpertWeights
from octavo_engine.kernels.head_changes import HeadChanges
from octavo_engine.kernels.packed_weight import PackedWeight
from octavo_engine.kernels.reference_sampling import SamplingBatch
from octavo_models.layers import Activation, Attention, Experts, Norm, QueryScaling, Rotary, Router
from octavo_models.pooling import PoolingKind


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """A step's requests as attention over one KV group sees them. All tensors int32 but `slots`, on the device.

    Request r owns the rows query_starts[r] … query_starts[r + 1] - 1; they are the last of its seq_lens[r] tokens.
    Its blocks, in order, are block_tables[rows[r]]; unused entries and blocks wholly before the window are 0, the null
    block, which may hold anything. A decode with seq_lens 0 is padding: attention gives its row zeros.
    """

    rows: Tensor  # [num_requests]: where the request's table is
    query_starts: Tensor  # [num_requests + 1]
    seq_lens: Tensor  # [num_requests], tokens of this step included
    block_tables: Tensor  # [max_requests, max_blocks]
    slots: Tensor  # [num_tokens] int64: block * block_size + offset; under block_size: not written
    num_decodes: int  # the first so many requests have exactly one row each, at the row of their own number
    max_query_len: int  # of the others
    max_seq_len: int
    decode_lens: tuple[int, ...] = ()  # of the decodes, or bounds of them; none: each may be `max_seq_len`
    settled: dict[object, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The operations' findings for the first layer of a kind, which they need not look for again in this step."""

    @property
    def num_requests(self) -> int:
        return self.rows.shape[0]


@dataclass(frozen=True, slots=True)
class Float8Weight:
    """A matrix in float8_e4m3fn with one scale a row: w[n, k] = scales[n] * values[n, k]."""

    values: Tensor  # [out, in] float8_e4m3fn
    scales: Tensor  # [out] float32

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.values.shape[0], self.values.shape[1]


IN_PROMPT = 1 << 30  # in an element of `TokenCounts.table`

Weight = Tensor | PackedWeight | Float8Weight


@dataclass(frozen=True, slots=True)
class KnownTokens:
    """The tokens that the rows' requests hold so far: penalties and bad words read them. Row i's tokens are
    token_ids[rows[i], : lengths[i]], of which the first prompt_lens[i] are its prompt."""

    token_ids: Tensor  # [max_requests, max_len] int32
    rows: Tensor  # [n] int32
    lengths: Tensor  # [n] int32
    prompt_lens: Tensor  # [n] int32


@dataclass(frozen=True, slots=True)
class Penalties:
    """The three penalties of each of n rows, as `reference_sampling.process_logits` defines them."""

    repetition: Tensor  # [n] float32; 1: off
    frequency: Tensor  # [n] float32; 0: off
    presence: Tensor  # [n] float32; 0: off


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """The number of times that the rows' requests have used each token, kept from draw to draw: row i's are
    table[slots[i]].

    They are of its first `counted[i]` tokens; 0: the table's row may hold anything. An element is the number of times
    that the token is in the output, plus IN_PROMPT if it is in the prompt.
    """

    table: Tensor  # [num_slots, vocab] int32
    slots: Tensor  # [n] int32; no two are equal; -1: a row without penalties
    counted: Tensor  # [n] int32


@dataclass(frozen=True, slots=True)
class Bans:
    """Tokens that may not be drawn. Ban b forbids tokens[b] in logits row rows[b], if the row's output ends with
    prefixes[prefix_starts[b] : prefix_starts[b + 1]]; an empty prefix always holds. For stop tokens before
    min_tokens and for bad_words."""

    rows: Tensor  # [num_bans] int32
    tokens: Tensor  # [num_bans] int32
    prefix_starts: Tensor  # [num_bans + 1] int32
    prefixes: Tensor  # [total] int32


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log-probabilities of n rows under raw logits. Columns of `top_*` are ordered: the likeliest first, equals by
    token id."""

    own: Tensor  # [n] float32, of the row's token
    ranks: Tensor  # [n] int64: one more than the number of strictly likelier tokens
    top_ids: Tensor  # [n, num_top] int64
    top: Tensor  # [n, num_top] float32


@dataclass(frozen=True, slots=True)
class StepRows:
    """The differences that a step brings: which requests run, where they stand, and which blocks and tokens they
    gained.

    Rows are places in the persistent tables. New numbers come flat: run j puts values[starts[j] : starts[j + 1]] into
    row run_rows[j] of table run_tables[j] from column run_columns[j] on. Table 0 is the token ids, table 1 + g the
    block table of KV group g. Runs don't overlap. All int32.
    """

    rows: Tensor  # [num_requests]; -1: padding
    query_starts: Tensor  # [num_requests + 1]
    num_computed: Tensor  # [num_requests]: the position of the request's first query
    run_tables: Tensor  # [num_runs]
    run_rows: Tensor  # [num_runs]
    run_columns: Tensor  # [num_runs]
    starts: Tensor  # [num_runs + 1]
    values: Tensor  # [total]


@dataclass(frozen=True, slots=True)
class StepInputs:
    """The forward's inputs, made on the device."""

    token_ids: Tensor  # [num_tokens] int64
    positions: Tensor  # [num_tokens] int64
    seq_lens: Tensor  # [num_requests] int32; padding: 0
    slots: tuple[Tensor, ...]  # a KV group: [num_tokens] int64; rows that no request owns: 0, the null block


class Operations(Protocol):
    """The operations that a decoder and its sampler call. Arguments are contiguous and never changed unless said."""

    prefers_packed: bool
    """A file's blocks are multiplied packed. False: each product would widen the whole matrix first."""

    # --- rows ---
    def norm(self, x: Tensor, weight: Tensor | None, spec: Norm, bias: Tensor | None = None) -> Tensor:
        """RMSNorm or LayerNorm over the last axis. x: [..., dim]; weight, bias: [dim], no weight where the norm has
        none -> as x."""

    def add_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor | None, spec: Norm, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x, residual: [num_tokens, dim] -> (norm(total), total), total = x + residual in their dtype."""

    def gated(self, gate_up: Tensor, kind: Activation) -> Tensor:
        """`act(gate) * up`. gate_up: [num_tokens, 2 * size], gate first -> [num_tokens, size]."""

    def activation(self, x: Tensor, kind: Activation) -> Tensor:
        """Elementwise."""

    def xielu(self, x: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Elementwise, as `reference.xielu` defines it. positive, negative: [1] float32."""

    def gate_by_sigmoid(self, x: Tensor, gate: Tensor) -> Tensor:
        """`x * sigmoid(gate)`, in place of x. Both [num_tokens, size]."""

    def matmul(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        """`x @ weightᵀ + bias`. x: [num_tokens, in]; bias: [out] -> [num_tokens, out] in x's dtype.

        With a Float8Weight, rows of x are rounded to float8 with a scale of their own first.
        """

    def matmul_scratch(self, num_tokens: int, columns: int) -> int:
        """The most bytes that `matmul` with a PackedWeight of `columns` outputs takes beside its result, for up to
        `num_tokens` rows of x."""

    # --- low-rank adapters ---
    def add_adapters(self, y: Tensor, x: Tensor, weights: AdapterWeights, rows: AdapterRows) -> None:
        """`y[t, n] += b[slot, n] · (a[slot, part of n] @ x[t])` for the rows of `rows`, in place of y, the result of the
        product that `weights` are of. x: [num_tokens, in]; y: [num_tokens, out of all parts]."""

    def adapter_tile(self, num_rows: int) -> int:
        """The most rows of a tile of `AdapterRows` in a step with `num_rows` rows that use adapters."""

    def adapters_scratch(self, num_tokens: int, width: int) -> int:
        """The most bytes that `add_adapters` takes, for up to `num_tokens` rows. width: num_parts * rank, the largest."""

    # --- mixtures of experts ---
    def route(
        self, logits: Tensor, router: Router, num_chosen: int, correction: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Choose experts. logits: [num_tokens, num_experts], bias included; correction: [num_experts].

        Returns the numbers of the chosen experts, the best first, of equals the lower number, and their weights:
        [num_tokens, num_chosen] int32 and float32.
        """

    def experts(self, x: Tensor, chosen: Tensor, shares: Tensor, weights: ExpertWeights, spec: Experts) -> Tensor:
        """`sum(share * expert(x))` over the chosen ones that `spec` holds; no other expert is read. x: [num_tokens,
        hidden]; chosen and shares: of `route` -> as x."""

    def experts_scratch(self, num_tokens: int, spec: Experts) -> int:
        """The most bytes that `route` and `experts` take beside what is of x's dtype: of each choice the expert's inner
        row and its result."""

    # --- attention ---
    def rotary_table(self, rotary: Rotary, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin: each [num_tokens, rotary.dim / 2] float32. Once a step and kind of rotary."""

    def query_scales(self, scaling: QueryScaling, positions: Tensor) -> Tensor:
        """The factor on the query of each token: [num_tokens] float32. Once a step and kind of scaling."""

    def head_sums(self, qkv: Tensor, spec: Attention) -> Tensor:
        """The sums of q's elements, of their squares, and the same of k's, clipped as spec says: [num_tokens, 4] float32.

        qkv: as in `write_qkv`.
        """

    def write_qkv(
        self,
        qkv: Tensor,
        spec: Attention,
        changes: HeadChanges,
        k_cache: Tensor,
        v_cache: Tensor,
        batch: PagedBatch,
        kv_scales: tuple[float, float] = (1.0, 1.0),
    ) -> Tensor:
        """Clip, norm, turn and scale the heads of q and k as `spec` says, norm v, and write k and v to their slots, in one
        pass; of a layer that reads another's keys there is q alone, and nothing is written.

        qkv: [num_tokens, q_size + k_size + v_size]; caches: [num_blocks, block_size, num_kv_heads, head_dim], in qkv's
        dtype or float8_e4m3fn, where k / kv_scales[0] and v / kv_scales[1] are stored, saturated. Slots of block 0 are
        not written. Of `batch` only the slots are read. Returns q: [num_tokens, num_heads, head_dim_k].
        """

    def attention(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        batch: PagedBatch,
        spec: Attention,
        kv_scales: tuple[float, float] = (1.0, 1.0),
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Attention over paged keys and values; direction, window, chunk, soft cap, scale and slopes as `spec` says.

        q: [num_tokens, num_heads, head_dim_k]; caches as in `write_qkv`; sinks: [num_heads], where spec says
        -> [num_tokens, num_heads, head_dim_v]. Of latent attention spec is the absorbed one, and both caches are that of
        `write_latent`, of which the first elements are the values.
        """

    def write_latent(
        self,
        q: Tensor,
        kv: Tensor,
        norm: Tensor,
        spec: Attention,
        turn: tuple[Tensor, Tensor],
        cache: Tensor,
        batch: PagedBatch,
    ) -> Tensor:
        """Norm the step's latents, turn their keys and write both to their slots; turn the last part of each head of q.

        q: [num_tokens, num_heads * head_dim_k]; kv: [num_tokens, width], latent then key;
        norm: [rank]; turn: of `rotary_table`; cache: [num_blocks, block_size, 1, width]. Slots of block 0 are not written.
        Returns [num_tokens, num_heads, width], of which the last `rotary_dim` elements are set: the first `rank` are for
        what `by_head` makes of the others.
        """

    def by_head(self, x: Tensor, weight: Tensor, out: Tensor) -> None:
        """`out[t, h] = x[t, h] @ weight[h]ᵀ`. x: [num_tokens, num_heads, in]; weight: [num_heads, out, in];
        out: [num_tokens, num_heads, out]; tokens and heads of x and out may lie apart."""

    def attention_scratch(self, num_decodes: int, max_len: int, spec: Attention) -> int:
        """The most bytes that `attention` takes beside its result, for requests of up to `max_len` tokens."""

    # --- pooling ---
    def pool(self, hidden: Tensor, starts: Tensor, kind: PoolingKind) -> Tensor:
        """One vector of each prompt's rows. hidden: [num_tokens, dim]; starts: [n + 1] int32, prompt i owns the rows
        starts[i] … starts[i + 1] - 1, one at least -> [n, dim] float32."""

    # --- sampling ---
    def soft_cap_logits(self, logits: Tensor, multiplier: float, soft_cap: float | None) -> Tensor:
        """`multiplier * logits`, then `cap * tanh(x / cap)` where there is a cap. [n, vocab] -> float32, a new one."""

    def penalize(self, logits: Tensor, penalties: Penalties, known: KnownTokens, counts: TokenCounts) -> None:
        """Apply the penalties to float32 logits [n, vocab], in place. After the bans.

        Counts the tokens from counts.counted[i] to known.lengths[i] too, in place.
        """

    def ban(self, logits: Tensor, bans: Bans | None, known: KnownTokens, allowed: Tensor | None = None) -> None:
        """Set banned tokens to -inf in float32 logits [n, vocab], in place.

        allowed: [n, ceil(vocab / 32)] int32, bit t % 32 of word t // 32 for token t (allowed_token_ids, or a grammar).
        """

    def sample(self, logits: Tensor, batch: SamplingBatch) -> Tensor:
        """Draw from processed float32 logits [n, vocab], as `reference_sampling.sample` does -> [n] int64.

        A row from which nothing can be drawn gives -1 where every token is banned, -2 where the largest logit is
        not a finite number. Padding gives -1, whatever its logits are.
        """

    def logprobs(self, logits: Tensor, tokens: Tensor, num_top: int) -> Logprobs:
        """Log-probabilities from raw float32 logits [n, vocab]. tokens: [n] int64 (outside the vocabulary: the row is
        unspecified); num_top: at most 32."""

    # --- inputs ---
    def build_inputs(
        self, token_ids: Tensor, block_tables: tuple[Tensor, ...], step: StepRows, block_size: int, num_tokens: int
    ) -> StepInputs:
        """Take a step's difference into the persistent tables, in place, and read its inputs from them.

        token_ids: [max_requests, max_len] int32; block_tables: a KV group: [max_requests, max_blocks] int32;
        num_tokens: rows to make, at least step.query_starts[-1]; those beyond are token 0 at position 0.
        """

    def append_tokens(self, token_ids: Tensor, rows: Tensor, positions: Tensor, drawn: Tensor) -> None:
        """token_ids[rows[i], positions[i]] = drawn[i], in place, for drawn >= 0 and rows >= 0: the next step reads them
        without the host. A position past the table, drawn after a sequence of full length, is dropped. rows: [n] int32;
        positions, drawn: [n] int64."""
