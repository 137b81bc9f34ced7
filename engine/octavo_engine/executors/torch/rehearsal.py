"""Every kernel that an engine may launch, found by running its steps without data.

A rehearsal is a `ModelRunner` whose tensors lie nowhere (PyTorch's meta device) and whose launches are written down:
steps of few and many requests, long and short ones, with all that a request may ask for. Neither a GPU nor weights are
needed, only the model's description, so that kernels can be compiled where an image is built.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import torch
from torch import Tensor

from octavo_engine.config import EngineConfig
from octavo_engine.core.outputs import NewRequest, SchedulerOutput, StepOutput
from octavo_engine.executors.torch.decoder import Decoder
from octavo_engine.executors.torch.kernel_lists import what_decides
from octavo_engine.executors.torch.model_runner import ModelRunner
from octavo_engine.executors.torch.parallel import ALONE, Parallel
from octavo_engine.kernels import operations
from octavo_engine.kernels.operations import Logprobs
from octavo_engine.kernels.packing import Stored, pack_blocks
from octavo_engine.kernels.reference_sampling import SamplingBatch
from octavo_engine.kernels.triton.launch import Launcher
from octavo_engine.kernels.triton.operations import TritonOperations
from octavo_engine.kernels.triton.variants import Variant
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.weights.adapter import Adapter
from octavo_models.formats import FORMATS, stays_packed
from octavo_models.layers import Experts, Layer
from octavo_models.partition import Place, Shard, shards
from octavo_models.spec import ModelSpec, Weight

NOWHERE = torch.device("meta")
# Of what is rehearsed: requests and tokens of a step, tokens of a request. Kernels know no classes beyond.
MOST_REQUESTS, MOST_TOKENS, MOST_LENGTH = 512, 512, 4096
MOST_TOKENS_OF_EXPERTS = 1 << 14  # among many experts it takes more until each has the rows of the largest tile
FEWEST_SMS, MOST_SMS = 1, 1024
ADAPTER_ID = 1
PLAIN = SamplingParams(max_tokens=2)
EVERYTHING = SamplingParams(
    max_tokens=2,
    top_p=0.9,
    top_k=50,
    min_p=0.01,
    presence_penalty=0.1,
    repetition_penalty=1.1,
    min_tokens=9,
    eos_token_ids=(0,),
    logit_bias={0: 1.0},
    allowed_token_ids=(0, 1),
    bad_words=((0, 1),),
)


@dataclass(frozen=True, slots=True)
class RecordingLauncher(Launcher):
    """Keeps what launches would be compiled for, in their order, and the programs of each one's largest."""

    recorded: dict[Variant, int] = field(default_factory=dict)

    def __call__(self, kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
        if all(grid):
            variant, programs = Variant.of(kernel, args, options), math.prod(grid)
            self.recorded[variant] = max(programs, self.recorded.get(variant, 0))


class UncomputedOperations(TritonOperations):
    """Triton's operations over a launcher that runs nothing: what the host reads of them is zeros."""

    def matmul(self, x: Tensor, weight: operations.Weight, bias: Tensor | None = None) -> Tensor:
        if isinstance(weight, Tensor):
            return x.new_empty(x.shape[0], weight.shape[0])
        return super().matmul(x, weight, bias)

    def sample(self, logits: Tensor, batch: SamplingBatch) -> Tensor:
        return torch.zeros(super().sample(logits, batch).shape, dtype=torch.int64)

    def logprobs(self, logits: Tensor, tokens: Tensor, num_top: int) -> Logprobs:
        found = super().logprobs(logits, tokens, num_top)
        parts = (found.own, found.ranks, found.top_ids, found.top)
        return Logprobs(*(torch.zeros(x.shape, dtype=x.dtype) for x in parts))


class Unshared(Parallel):
    """A rank whose neighbours are not there: shapes are as with them."""

    def gather_logits(self, x: Tensor, vocab_size: int) -> Tensor:
        return x.new_empty(x.shape[0], vocab_size)

    def receive(self, x: Tensor) -> Tensor:
        return x

    def send(self, x: Tensor) -> None:
        pass


def kernels_of(config: EngineConfig, spec: ModelSpec, launcher: Launcher, parallel: Parallel = ALONE) -> list[Variant]:
    """The kernels that the rank at `parallel.place` of `spec` may launch under `config`, on `launcher`'s kind of GPU.

    GPUs of a kind differ in their number of SMs, by which products are split or not: both are rehearsed.
    """
    gpus = (replace(launcher.gpu, num_sms=num_sms) for num_sms in (FEWEST_SMS, MOST_SMS))
    found = (rehearse(config, spec, Launcher(gpu, launcher.tuned), parallel) for gpu in gpus)
    return list(dict.fromkeys(variant for variants in found for variant in variants))


def rehearse(
    config: EngineConfig, spec: ModelSpec, launcher: Launcher, parallel: Parallel = ALONE
) -> dict[Variant, int]:
    """The variants that are launched on `launcher`'s very GPU, and the programs of each one's largest launch."""
    recorder = RecordingLauncher(launcher.gpu, launcher.tuned)
    place = parallel.place
    length = min(spec.max_position, MOST_LENGTH)
    config = what_decides(config)
    config = msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, max_model_len=length))
    spec = _distinct(spec, place.num_stages)
    runner = ModelRunner(config, spec, NOWHERE, UncomputedOperations(recorder), Unshared(place))
    assert isinstance(runner.spec, ModelSpec)
    weights = described_weights(spec, place, runner.dtype, packed=runner.packed)
    runner.allocate_adapters()
    runner.take_model(Decoder(runner.spec, weights, runner.ops, runner.dtype, runner.parallel, runner.adapted_product))
    runner.limit_length(length)
    runner.allocate((2,) * len(runner.layout.groups))
    if spec.pooling is not None:
        for step in _prompts(config, length):
            runner.pooled_nowhere(step)
            runner.requests.clear()
        return recorder.recorded
    most = min(config.scheduler.max_num_seqs, MOST_REQUESTS)
    mixed = any(isinstance(layer.mlp, Experts) for layer in spec.layers)
    most_tokens = min(config.scheduler.max_num_batched_tokens, MOST_TOKENS_OF_EXPERTS if mixed else MOST_TOKENS)
    steps = [_steps(most, most_tokens, length, runner)]
    if runner.adapters is not None:
        runner.adapters.keep(Adapter(ADAPTER_ID, ()))
        steps.append(_adapted_steps(most_tokens, length, runner))
    for step in itertools.chain(*steps):
        handle = runner.submit(step)
        if place.last_stage:
            runner.sample(handle)
            output = runner.collect(handle)
            assert not output.errors, output.errors
        else:
            runner.take_drawn(handle, _drawn(step))
        runner.requests.clear()
    return recorder.recorded


def described_weights(spec: ModelSpec, place: Place, dtype: torch.dtype, *, packed: bool) -> dict[str, Stored]:
    """The weights of `weights.read_weights` without storage: the same layouts, without a file."""
    return {shard.weight.name: _nowhere(shard, dtype, packed=packed) for shard in shards(spec, place)}


def _nowhere(shard: Shard, dtype: torch.dtype, *, packed: bool) -> Stored:
    format_, shape = shard.whole.format, shard.weight.shape
    if not packed or shard.zero or len(shape) == 1 or not stays_packed(format_, shape):
        return torch.empty(shape, dtype=dtype, device=NOWHERE)
    columns = shard.whole.shape[1]  # blocks may be wider than a rank's part
    row_bytes = columns // FORMATS[format_].block_size * FORMATS[format_].bytes_per_block
    whole = pack_blocks(format_, torch.empty(shape[0], row_bytes, dtype=torch.uint8, device=NOWHERE))
    return whole.columns(shard.start, shard.start + shape[1]) if shard.axis == 1 else whole


def _distinct(spec: ModelSpec, times: int) -> ModelSpec:
    """The model with one layer of each kind, `times` over: its other layers launch what these do."""
    weights: dict[int, list[Weight]] = {}
    for weight in spec.weights:
        if weight.layer is not None:
            weights.setdefault(weight.layer, []).append(weight)
    kinds: dict[tuple[Layer, object], int] = {}
    for i, layer in enumerate(spec.layers):
        kinds.setdefault((layer, tuple((w.format, w.shape) for w in weights[i])), i)
    kept = [*kinds.values()] * times
    moved = [
        replace(weight, name=f"layers.{at}.{weight.name.split('.', 2)[2]}")
        for at, i in enumerate(kept)
        for weight in weights[i]
    ]
    outside = [weight for weight in spec.weights if weight.layer is None]
    first = {layer: kept.index(i) for (layer, _), i in kinds.items()}
    layers = tuple(_reading(spec.layers[i], spec, first) for i in kept)
    return replace(spec, layers=layers, weights=(*outside, *moved))


def _reading(layer: Layer, spec: ModelSpec, first: dict[Layer, int]) -> Layer:
    """The layer, which reads the keys of another of its source's kind, at `first[source]`."""
    source = layer.attention.kv_from_layer
    if source is None:
        return layer
    return replace(layer, attention=replace(layer.attention, kv_from_layer=first[spec.layers[source]]))


def _prompts(config: EngineConfig, longest: int) -> Iterator[SchedulerOutput]:
    """Steps of a model that pools: few and many prompts, of one token and of many."""
    most = min(config.scheduler.max_num_seqs, MOST_REQUESTS)
    most_tokens = min(config.scheduler.max_num_batched_tokens, MOST_TOKENS)
    shapes = [(1, n) for n in (1, most)]
    shapes += [(min(1 << k, longest), 1) for k in range(1, most_tokens.bit_length())]
    shapes += [(min(max(2, most_tokens // most), longest), most)]
    for length, count in shapes:
        new = tuple(NewRequest(str(i), [0] * length, PLAIN, (), 0) for i in range(count))
        counts = {request.request_id: length for request in new}
        yield SchedulerOutput(0, new, (), counts, {}, frozenset())


def _steps(most: int, most_tokens: int, longest: int, runner: ModelRunner) -> Iterator[SchedulerOutput]:
    """Steps of every kind: kernels distinguish numbers of requests, rows and best tokens by powers of two."""
    counts = [1 << k for k in range(most.bit_length()) if 1 << k < most] + [most]
    for n in counts:
        yield _step(runner, [(min(2, longest), 1)] * n, PLAIN)
    for n in {1, most}:
        yield _step(runner, [(longest, 1)] * n, PLAIN)
        yield _step(runner, [(min(300, longest), 1)] * n, EVERYTHING)
    for num_best in (0, 1, 8, 32):
        scored = msgspec.structs.replace(EVERYTHING, logprobs=num_best, prompt_logprobs=num_best)
        yield _step(runner, [(min(5, longest), min(5, longest))], scored)
    for tokens in (*(1 << k for k in range(1, most_tokens.bit_length()) if 1 << k < most_tokens), most_tokens):
        length = min(tokens, longest)
        yield _step(runner, [(length, length)] * min(tokens // length, most), PLAIN)


def _adapted_steps(most_tokens: int, longest: int, runner: ModelRunner) -> Iterator[SchedulerOutput]:
    """Steps of few and many rows that use an adapter: kernels know no other classes of them."""
    for tokens in (1, most_tokens):
        length = min(tokens, longest)
        yield _step(runner, [(length, length)] * (tokens // length), PLAIN, ADAPTER_ID)


def _step(
    runner: ModelRunner, requests: list[tuple[int, int]], sampling: SamplingParams, adapter_id: int = 0
) -> SchedulerOutput:
    """Requests of (tokens, scheduled tokens), all of which draw. Their blocks are block 1: there is nothing in it."""
    block_size = runner.layout.block_size
    new = tuple(
        NewRequest(
            str(i),
            [0] * length,
            sampling,
            tuple([1] * -(-length // block_size) for _ in runner.layout.groups),
            length - scheduled,
            adapter_id,
        )
        for i, (length, scheduled) in enumerate(requests)
    )
    counts = {request.request_id: scheduled for request, (_, scheduled) in zip(new, requests, strict=True)}
    wanted = counts if sampling.prompt_logprobs is not None else dict.fromkeys(counts, 1)
    return SchedulerOutput(0, new, (), counts, wanted, frozenset(counts))


def _drawn(step: SchedulerOutput) -> StepOutput:
    return StepOutput(step.step_id, {request_id: [0] for request_id in step.samples})
