"""A service's demand on each GPU, or on a CPU's memory, once its model is known: weights, overheads and KV, in bytes.

The engine's own arithmetic where it is exact (weights, KV blocks, tables), estimates where only a GPU could decide;
`Demand.error` bounds how far these may be off.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from octavo_models import ModelSpec
from octavo_models.layers import Experts, Layer
from octavo_models.panels import VALUE_MULTIPLE, weights_in_panels
from octavo_models.partition import Place, kv_layout
from octavo_models.sharding import possible_sizes, weights_on_gpu
from octavo_models.spec import FORMAT_OF_DTYPE, KVLayout
from octavo_operator.api.engine import Engine
from octavo_operator.planner.adapters import adapter_bytes
from octavo_operator.planner.given_flags import shares_out_experts
from octavo_operator.planner.plan import GpuBudget, Limits
from octavo_operator.planner.request_memory import request_bytes
from octavo_operator.planner.sizes import MIB, round_up
from octavo_operator.runtimes import runtime_of

# Device context, libraries and workspaces, before the first activation.
CONTEXT_ON_GPU = 512 * MIB
# NCCL's buffers on each rank, where there are several.
COLLECTIVES = 600 * MIB
# Half the width of the estimates: context, activations and libraries of one GPU; NCCL on top where there are several.
ERROR, ERROR_OF_SEVERAL = 300 * MIB, 600 * MIB
# Sequences of a CPU's KV cache where neither manifest nor memory limit gives a number.
SEQUENCES_ON_CPU = 4
LEAST_KV_ON_CPU, MOST_KV_ON_CPU = 256 * MIB, 4096 * MIB
UNKNOWN_KV_ON_CPU = 1024 * MIB
# A vision tower's images, which vLLM runs through it while it measures its memory.
ENCODER_BYTES = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Demand:
    """A service's demand on each GPU."""

    spec: ModelSpec
    engine: Engine
    limits: Limits
    on_gpu: bool

    @property
    def max_model_len(self) -> int:
        return self.limits.max_model_len or self.spec.max_position

    @property
    def error(self) -> int:
        """Bytes by which overheads may be more or less; a CPU's KV cache is of the size that it is given."""
        if not self.on_gpu:
            return 0
        return ERROR if self._ranks(self.engine.tensor_parallel_size) == 1 else ERROR_OF_SEVERAL

    def sizes(self, most: int) -> list[int]:
        """Tensor-parallel sizes up to `most` that divide the model."""
        engine = self.engine
        whole = shares_out_experts(engine)
        return possible_sizes(self.spec, engine.pipeline_parallel_size, most, whole_experts=whole)

    def weights(self, tensor_parallel: int) -> int:
        engine, dtype = self.engine, None if self.engine.dtype == "auto" else self.engine.dtype
        plain = self.spec.quantization is None
        keeps = runtime_of(engine).keeps_float32(on_gpu=self.on_gpu)
        if dtype is None and plain and self.spec.dtype == "float32" and not keeps:
            dtype = "bfloat16"
        if not self.on_gpu:
            return weights_in_panels(self.spec, dtype) if self._is_native else self.spec.weight_bytes(dtype)
        stages, whole_experts = engine.pipeline_parallel_size, shares_out_experts(engine)
        whole = weights_on_gpu(self.spec, dtype, tensor_parallel, stages, whole_experts=whole_experts)
        if engine.quantization in runtime_of(engine).quantizes_on_load and plain:
            of_layers = _matrices(self.spec)
            matrices = weights_on_gpu(of_layers, "bfloat16", tensor_parallel, stages, whole_experts=whole_experts)
            whole -= matrices // 2
        return whole + self._vision()

    def kv(self, tokens: int, tensor_parallel: int) -> int:
        """KV bytes that one sequence of `tokens` takes, on the GPU with most of them."""
        return max(layout.kept_bytes(tokens) for layout in self._kv_layouts(tensor_parallel))

    def kv_once(self, tensor_parallel: int) -> int:
        """KV bytes that are needed once, however many sequences run."""
        chunk = self.limits.max_num_batched_tokens
        return max(layout.once_bytes(self.max_model_len, chunk) for layout in self._kv_layouts(tensor_parallel))

    def overhead(self, tensor_parallel: int) -> int:
        """Context, tables, adapters, and the activations of one full step."""
        passing = self._context(tensor_parallel) + self._tables() + self._activations(tensor_parallel)
        return passing + adapter_bytes(self.spec, self.engine, self._element, on_gpu=self.on_gpu)

    def budget(
        self, capacity: int, utilization: float, tensor_parallel: int, product: str | None, shares: int = 1
    ) -> GpuBudget:
        return GpuBudget(
            capacity=capacity,
            usable=int(capacity * utilization),
            weights=self.weights(tensor_parallel),
            overhead=self.overhead(tensor_parallel),
            kv_per_sequence=self.kv(self.max_model_len, tensor_parallel),
            kv_once=self.kv_once(tensor_parallel),
            error=self.error,
            product=product,
            shares=shares,
        )

    def request_reserve(self, memory: int | None) -> int:
        """Host memory that is kept for the largest requests: of a CPU's, as much as the KV cache can do without."""
        if memory is None:
            return self.request_peak
        left = memory - self.weights(1) - self.overhead(1) - self.least_kv(1)
        return max(0, min(self.request_peak, left))

    @property
    def request_peak(self) -> int:
        """The bytes of a CPU's memory that the largest requests may take."""
        bounded = not self.on_gpu and runtime_of(self.engine).bounds_requests
        return request_bytes(self.max_model_len) if bounded else 0

    def least_kv(self, tensor_parallel: int) -> int:
        """KV bytes below which it does not fit."""
        one = self.kv(self.max_model_len, tensor_parallel)
        return one * self.engine.min_concurrency + self.kv_once(tensor_parallel)

    def needed(self, tensor_parallel: int) -> int:
        """Bytes of all kinds below which it does not fit."""
        return self.weights(tensor_parallel) + self.overhead(tensor_parallel) + self.least_kv(tensor_parallel)

    @property
    def _is_native(self) -> bool:
        """True if the native executor runs it."""
        return not self.on_gpu and "native" in runtime_of(self.engine).executors.get("cpu", ())

    def _kv_layouts(self, tensor_parallel: int) -> list[KVLayout]:
        """The blocks of a GPU of each stage."""
        stages, multiple = self.engine.pipeline_parallel_size, VALUE_MULTIPLE if self._is_native else 1
        places = (Place(0, tensor_parallel, stage, stages) for stage in range(stages))
        return [
            kv_layout(self.spec, place, self.engine.block_size, self.limits.kv_format, multiple) for place in places
        ]

    @property
    def _element(self) -> int:
        """Bytes of an element of what the model multiplies with, as of its KV cache unless that is narrower."""
        return 4 if self.limits.kv_format == "f32" else 2

    def _ranks(self, tensor_parallel: int) -> int:
        return tensor_parallel * self.engine.pipeline_parallel_size

    def _context(self, tensor_parallel: int) -> int:
        runtime = runtime_of(self.engine)
        if not self.on_gpu:
            return runtime.cpu_bytes + self.limits.request_bytes
        collectives = COLLECTIVES if self._ranks(tensor_parallel) > 1 else 0
        graphs = 0 if self.engine.enforce_eager else runtime.graph_bytes
        return CONTEXT_ON_GPU + collectives + graphs

    def _tables(self) -> int:
        """Token ids and block tables of all sequences, int32 (octavo_engine.executors.torch.input_batch)."""
        if not self.on_gpu:
            return 0
        groups = len({layer.attention.window for layer in self.spec.layers})
        blocks = groups * -(-self.max_model_len // self.engine.block_size)
        tokens = self.max_model_len if runtime_of(self.engine).tokens_on_gpu else 0
        return self.limits.max_num_seqs * (tokens + blocks) * 4

    def _activations(self, tensor_parallel: int) -> int:
        """The residual stream with the wider of attention and MLP; then the logits, which need what these leave.

        A CPU's buffers are float32 and stay.
        """
        spec, limits = self.spec, self.limits
        rows = min(limits.max_num_batched_tokens, self.max_model_len * limits.max_num_seqs)
        whole_experts = shares_out_experts(self.engine)
        widest = max(_width(layer, tensor_parallel, whole_experts=whole_experts) for layer in spec.layers)
        element = 4 if not self.on_gpu or self.engine.dtype == "float32" else 2
        layer = rows * (4 * spec.hidden_size + widest + _beside_the_layers(spec)) * element
        if spec.pooling is not None:
            return layer + rows * widest * element  # the keys and values of one layer, and no logits
        if not self.on_gpu:
            return layer + 2 * limits.max_num_seqs * spec.vocab_size * 4
        logits = 3 * limits.max_num_seqs * spec.vocab_size * 4  # raw, processed, sorted
        return max(layer, logits) * 21 // 20

    @property
    def vision_is_unknown(self) -> bool:
        """True if the runtime serves a vision half whose size the config does not state."""
        return runtime_of(self.engine).serves_vision and self.spec.vision_parameters is None

    def _vision(self) -> int:
        """The vision half, where the runtime serves it as well; without its weights where their size is not known."""
        if not runtime_of(self.engine).serves_vision or self.spec.vision_parameters == 0:
            return 0
        return (self.spec.vision_parameters or 0) * 2 + ENCODER_BYTES


def kv_format(engine: Engine, spec: ModelSpec | None, *, on_gpu: bool) -> str:
    """The KV cache's format: that of `kvCacheDtype`, else of the numbers that the model runs in."""
    if engine.kv_cache_dtype.startswith("fp8"):
        return "f8_e4m3"
    own = runtime_of(engine).kv_dtype(engine, spec, on_gpu=on_gpu)
    return FORMAT_OF_DTYPE[own if engine.kv_cache_dtype == "auto" else engine.kv_cache_dtype]


def kv_bytes_on_cpu(demand: Demand | None, memory: int | None) -> int:
    """Bytes of a CPU's KV cache: what the memory limit leaves, else room for a few sequences.

    At most 4 GiB without a limit, unless one sequence alone needs more. For an unknown model half of the limit, or
    one GiB.
    """
    if demand is None:
        return UNKNOWN_KV_ON_CPU if memory is None else memory // 2
    if demand.spec.pooling is not None:
        return 0
    one, once, least = demand.kv(demand.max_model_len, 1), demand.kv_once(1), demand.least_kv(1)
    if memory is not None:
        left = memory - demand.weights(1) - demand.overhead(1)
        most = one * demand.limits.max_num_seqs + once  # more could never be used
        return max(least, min(left, most) // MIB * MIB)
    return round_up(max(least, min(max(SEQUENCES_ON_CPU * one + once, LEAST_KV_ON_CPU), MOST_KV_ON_CPU)), MIB)


def _width(layer: Layer, tensor_parallel: int, *, whole_experts: bool) -> int:
    """Elements a row that one layer holds at its widest, in attention or in the MLP: they do not live at once."""
    mlp = layer.mlp.expert if isinstance(layer.mlp, Experts) else layer.mlp
    attention = layer.attention
    in_attention = attention.q_size + attention.k_size + attention.v_size + attention.o_size
    if attention.latent is not None:  # queries that have taken in keys, and their results
        latent = attention.latent
        in_attention += (latent.q_rank or 0) + attention.num_heads * (latent.width + latent.rank)
    in_mlp = mlp.intermediate_size * (3 if mlp.gated else 2)
    uncut = whole_experts and isinstance(layer.mlp, Experts)
    return max(in_attention // tensor_parallel, in_mlp if uncut else in_mlp // tensor_parallel)


def _beside_the_layers(spec: ModelSpec) -> int:
    """Elements a row that last through all layers: their own inputs, and residual streams beside the one they compute."""
    embedding, altup = spec.per_layer_embedding, spec.layers[0].altup
    inputs = 0 if embedding is None else len(spec.layers) * embedding.size
    return inputs + (0 if altup is None else 2 * altup.num * spec.hidden_size)


def _matrices(spec: ModelSpec) -> ModelSpec:
    """The part that is quantized on the fly: the layers' matrices."""
    kept = tuple(w for w in spec.weights if w.name.startswith("layers.") and len(w.shape) > 1)
    return replace(spec, weights=kept)
