"""The bytes of a device that any step of a configuration may take beside weights, tables and KV blocks.

One function of the configuration: a step is bounded by its tokens and requests, whatever their lengths and parameters.
Profiling confirms it at the start (`memory.measure`), and tests hold random steps to it by counting every allocation.
Owns the arithmetic; what is allocated is the decoder's, the sampler's and the kernels'. Independent of the device.
"""

from __future__ import annotations

from octavo_engine.config import SchedulerConfig
from octavo_engine.executors.torch.input_batch import MOST_VALUES
from octavo_engine.executors.torch.scores import PROMPT_ROWS
from octavo_engine.kernels.operations import Operations
from octavo_models.layers import Attention, Experts, Layer, Mlp
from octavo_models.outline import Model
from octavo_models.partition import Place
from octavo_models.spec import KVLayout, ModelSpec

REQUEST_BYTES = 128 << 10  # of one request's biases, bans and parameters, all as many as the server lets through
SAMPLING_BYTES = 64 << 10  # of one row's draw, beside its logits
SORTED_BYTES = 36  # of one logit of a row that is sorted whole: itself, its place, and room to sort them
HEAD_SUMS = 4  # of a token, where norms span all heads
ROUNDING = 1 << 20  # 2,000 small tensors, each a multiple of 512 bytes


def step_bytes(
    spec: Model,
    scheduler: SchedulerConfig,
    layout: KVLayout,
    place: Place,
    ops: Operations,
    *,
    element_size: int,
    max_len: int,
    packed: bool = False,
    adapter_width: int = 0,
) -> int:
    """The most that a step allocates at once. `spec` and `layout` are the rank's own; `element_size`: of activations;
    `adapter_width`: of `AdapterSlots`, 0 without adapters.

    Of a model that transformers computes, what its layers allocate is not counted: profiling alone sees it.
    """
    num_tokens = scheduler.max_num_batched_tokens
    n = min(scheduler.max_num_seqs, num_tokens)
    inputs = num_tokens * (8 * (2 + len(layout.groups)) + sum(4 * dim for dim in _rotary_dims(spec)))
    inputs += num_tokens * 4 * (len({attention.query_scaling for attention in spec.attentions}) + HEAD_SUMS)
    numbers = 4 * (max(MOST_VALUES, max_len) + n * (6 + 4 * (1 + len(layout.groups))))
    if adapter_width:
        numbers += 4 * 4 * num_tokens  # the order of rows, and tiles of a row each
    # Each kind of attention keeps its own through the step.
    forward = sum(ops.attention_scratch(n, max_len, kind.absorbed) for kind in set(spec.attentions))
    if isinstance(spec, ModelSpec):
        forward += element_size * num_tokens * max(_layer_width(spec, layer) for layer in spec.layers)
        if packed:
            forward += max(ops.matmul_scratch(num_tokens, columns) for columns in _product_columns(spec, place))
        mixtures = [layer.mlp for layer in spec.layers if isinstance(layer.mlp, Experts)]
        forward += max((ops.experts_scratch(num_tokens, mixture) for mixture in mixtures), default=0)
        forward += element_size * num_tokens * _beside_the_layers(spec)
        if adapter_width:
            forward += ops.adapters_scratch(num_tokens, adapter_width)
    hidden = element_size * num_tokens * spec.hidden_size
    draw = (
        hidden + _draw_bytes(spec, place, n, min(PROMPT_ROWS, num_tokens), element_size) if place.last_stage else hidden
    )
    counts = count_bytes(spec, scheduler) if place.last_stage else 0
    return numbers + counts + max(inputs + forward, draw) + n * (REQUEST_BYTES + SAMPLING_BYTES) + ROUNDING


def count_bytes(spec: Model, scheduler: SchedulerConfig) -> int:
    """The counts of penalties, where all requests ask for some: they outlast a step."""
    return 4 * scheduler.max_num_seqs * spec.vocab_size


def table_bytes(scheduler: SchedulerConfig, layout: KVLayout, max_len: int) -> int:
    """The tables of tokens and blocks, for requests of up to `max_len` tokens."""
    width = max_len + len(layout.groups) * -(-max_len // layout.block_size)
    return 4 * scheduler.max_num_seqs * width


def _layer_width(spec: ModelSpec, layer: Layer) -> int:
    """Elements a token at the widest moment of a layer: the residual stream's rows, and what is beside them."""
    h, attention = spec.hidden_size, layer.attention
    attending = 2 * h + _attention_width(attention, h)
    feeding = 3 * h + _feed_forward_width(layer.mlp, h)
    more = sum(norm is not None for norm in (layer.post_attention_norm, layer.post_mlp_norm))
    more += 2 * (layer.laurel is not None) + 2 * (layer.per_layer is not None) + layer.scaled
    more += (spec.residual_multiplier != 1.0) + layer.parallel_residual + layer.post_norms_sum
    return max(attending, feeding, 5 * h) + more * h


def _beside_the_layers(spec: ModelSpec) -> int:
    """Elements a token that all layers' own inputs take, and the residual streams beside the one that a layer computes."""
    embedding, altup = spec.per_layer_embedding, spec.layers[0].altup
    inputs = 0 if embedding is None else 4 * len(spec.layers) * embedding.size  # rows, products, norms and their sum
    return inputs + (0 if altup is None else 4 * altup.num * spec.hidden_size)


def _attention_width(attention: Attention, h: int) -> int:
    """Beside what is normed and the residual stream."""
    q, latent = attention.q_size, attention.latent
    qkv = q + attention.k_size + attention.v_size
    if latent is None:
        # Where q, k and v, or gate and up, are stored in several formats, their products are put side by side.
        return max(2 * qkv, qkv + q + attention.o_size * (1 + attention.output_gate) + h)
    low = 2 * (latent.q_rank or 0)
    absorbed, mixed = attention.num_heads * latent.width, attention.num_heads * latent.rank
    scaled = q if attention.query_scaling is not None else 0
    return low + max(qkv + scaled + absorbed, absorbed + mixed, mixed + attention.o_size + h)


def _feed_forward_width(mlp: Mlp | Experts, h: int) -> int:
    """Beside what is normed: of an MLP, its two products; of experts, what each of a token's makes, and their sum."""
    if isinstance(mlp, Mlp):
        wide = (
            6 * mlp.intermediate_size if mlp.cutoff is not None else 0
        )  # a gate in float32, and two of what is made of it
        up = mlp.intermediate_size * (2 if mlp.gated else 1)
        return max(2 * up, up + mlp.intermediate_size + h, up + wide)
    each = mlp.num_experts_per_token
    mixing = mlp.num_experts + each * (mlp.expert.intermediate_size + h) + h + (2 * h if mlp.beside is not None else 0)
    return mixing if mlp.shared is None else max(mixing, h + _feed_forward_width(mlp.shared, h))


def _product_columns(spec: ModelSpec, place: Place) -> set[int]:
    """Outputs of all products, however far q, k and v, or gate and up, are stacked."""
    found = {spec.hidden_size, -(-spec.vocab_size // place.tensor_size), spec.projected_embedding or 0}
    for layer in spec.layers:
        q, k, v = layer.attention.q_size, layer.attention.k_size, layer.attention.v_size
        latent = layer.attention.latent
        found |= {latent.q_rank or 0} if latent is not None else {q + k, k + v, q + k + v}
        found |= {q, k, v, layer.attention.o_size}
        dense = layer.mlp.shared if isinstance(layer.mlp, Experts) else layer.mlp
        if dense is not None:
            found |= {dense.intermediate_size, 2 * dense.intermediate_size}
    return found


def _rotary_dims(spec: Model) -> list[int]:
    return [rotary.dim for rotary in {attention.rotary for attention in spec.attentions} if rotary is not None]


def _draw_bytes(spec: Model, place: Place, n: int, scored_rows: int, element_size: int) -> int:
    """The bytes of a draw from n hidden rows that asks for all there is; prompts are scored some rows at a time."""
    vocab = spec.vocab_size
    rows = -(-vocab // place.tensor_size)
    gathered = rows * place.tensor_size + vocab if place.tensor_size > 1 else 0
    narrower = spec.projected_embedding if isinstance(spec, ModelSpec) else None
    hidden = spec.hidden_size + (narrower or 0)
    projected = element_size * (hidden + rows + gathered)  # of a row
    capped = element_size * (hidden + (vocab if place.tensor_size > 1 else rows)) + 4 * vocab
    processed = 3 * 4 * vocab + vocab // 4  # the logits, a copy as they were, those whose tops are wanted, masks
    draw = n * max(projected, capped, processed)
    scored = min(n, PROMPT_ROWS) * SORTED_BYTES * vocab + n * 2 * 4 * vocab
    prompts = scored_rows * (max(projected, capped) + SORTED_BYTES * vocab)
    return max(draw, scored, prompts)
