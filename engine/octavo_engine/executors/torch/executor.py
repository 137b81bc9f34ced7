"""The torch executor: the contract of `executors.executor` over torch tensors, on any device torch has.

On a GPU it runs over Triton's kernels and CUDA graphs; on a CPU over the plain operations, slowly: it is the twin
that the native executor and every kernel are compared with. Asynchronous: what a step draws feeds the next one on the
device, and `collect` alone waits for it. Owns the start: weights, kernels, and how memory is divided; `ModelRunner` runs
the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from octavo_engine.config import EngineConfig, ModelFiles
from octavo_engine.core.capacity import longest_sequence
from octavo_engine.core.outputs import KVOps, SchedulerOutput, StepOutput
from octavo_engine.errors import ExecutorError, OutOfMemoryError
from octavo_engine.executors.cores import number_of_threads
from octavo_engine.executors.executor import Capabilities, Capacity, Executor, StepHandle
from octavo_engine.executors.torch.adapter_slots import without_adapters
from octavo_engine.executors.torch.causal_model import CausalModel
from octavo_engine.executors.torch.decoder import Decoder
from octavo_engine.executors.torch.device import device_of
from octavo_engine.executors.torch.faults import FaultWatch
from octavo_engine.executors.torch.graphs import CudaRecorder, Recorder
from octavo_engine.executors.torch.kv_cache import swap_buffer_bytes
from octavo_engine.executors.torch.memory import Counters, CudaCounters, LargestGraph, measure
from octavo_engine.executors.torch.model_runner import ModelRunner
from octavo_engine.executors.torch.parallel import ALONE, Parallel
from octavo_engine.executors.torch.step_memory import step_bytes, table_bytes
from octavo_engine.executors.torch.weights import read_weights
from octavo_engine.executors.unsupported import refuse_unsupported
from octavo_engine.kernels.backends import operations_on
from octavo_engine.kernels.operations import Operations
from octavo_engine.kernels.packing import Stored
from octavo_engine.weights.adapter import Adapter
from octavo_models.outline import Model, ModelOutline
from octavo_models.spec import ModelSpec

LOAD_REMEDY = (
    "choose a smaller or a quantized model, spread it with --tensor-parallel-size, or lower --max-num-batched-tokens "
    "or --max-num-seqs"
)
ADAPTER_REMEDY = "lower --max-cpu-loras or --max-lora-rank"
KV_REMEDY = "lower --kv-cache-memory-bytes, --gpu-memory-utilization or --swap-space"


class TorchExecutor(Executor):
    """One model on one device, or one rank's part of it.

    `operations` and `recorder` are the device's own unless said: a recorder makes a CPU run decodes as graphs do.
    `weights` gives the tensors by their canonical names, on the device, where they are not read from `files`; `counters`
    describe the device's memory, which is divided by them.
    """

    def __init__(
        self,
        config: EngineConfig,
        spec: Model,
        files: ModelFiles,
        device: torch.device | None = None,
        parallel: Parallel = ALONE,
        *,
        operations: Operations | None = None,
        recorder: Recorder | None = None,
        weights: Callable[[], dict[str, Stored]] | None = None,
        faults: FaultWatch | None = None,
        counters: Counters | None = None,
    ) -> None:
        refuse_unsupported(spec, "torch")
        device = device or device_of(config.executor.device)
        on_gpu = device.type == "cuda"
        self.config = config
        self.whole = spec
        self.files = files
        self.device = device
        self.runner = ModelRunner(
            config,
            spec,
            device,
            operations or operations_on(device, config.executor.kernel_parameters),
            parallel,
            recorder=recorder or (CudaRecorder() if on_gpu else None),
            faults=faults,
        )
        self._counters = counters or (CudaCounters(device) if on_gpu else None)
        self._weights = weights or self._read_weights

    @property
    def capabilities(self) -> Capabilities:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        name = f"torch {torch.__version__} on {name}"
        return Capabilities(
            name,
            asynchronous=True,
            grammar_masks=True,
            swapping=True,
            pooling=True,
            adapters=self.runner.takes_adapters,
        )

    @torch.inference_mode()
    def load(self) -> Capacity:
        flag = self.config.executor.threads
        threads = number_of_threads(flag)  # beside GPUs too: each rank's host converts weights as they are read
        torch.set_num_threads(threads if flag is not None else min(threads, torch.get_num_threads()))
        with self._starting("the model and its largest step", LOAD_REMEDY):
            return self._load()

    def _load(self) -> Capacity:
        runner, counters = self.runner, self._counters
        if self.device.type == "cuda":
            from octavo_engine.executors.torch.warm_up import prepare_kernels  # noqa: PLC0415 — Triton is beside GPUs alone

            prepare_kernels(self.config, self.whole, runner.ops, runner.parallel.place)
        decoder, weight_bytes = self._built()
        runner.take_model(decoder)
        if runner.pools:
            runner.allocate(())
            if counters is not None:  # what does not fit is found at the start, not by a request
                runner.run_largest_step()
            return Capacity(runner.layout, weight_bytes, None)
        return Capacity(runner.layout, weight_bytes, None if counters is None else self._kv_bytes(counters))

    def _built(self) -> tuple[CausalModel, int]:
        """The model, and the bytes of its weights."""
        runner = self.runner
        if isinstance(runner.spec, ModelOutline):
            from octavo_engine.executors.torch.transformers_check import checked_decoder  # noqa: PLC0415

            return checked_decoder(
                runner.spec,
                self.files,
                runner.ops,
                runner.layout,
                dtype=runner.dtype,
                kv_format=runner.kv_format,
                device=self.device,
                seed=self.config.model.seed,
                parallel=runner.parallel,
            )
        runner.allocate_adapters()
        weights = self._weights()
        weight_bytes = sum(weight.nbytes for weight in weights.values())
        adapted = runner.adapted_product
        return Decoder(runner.spec, weights, runner.ops, runner.dtype, runner.parallel, adapted), weight_bytes

    def beat_into(self, beats: memoryview) -> None:
        self.runner.beat_into(beats)

    def limit_length(self, max_len: int) -> None:
        with self._starting("the tables of requests", LOAD_REMEDY):
            self.runner.limit_length(max_len)

    @torch.inference_mode()
    def init_kv(self, num_blocks: tuple[int, ...], num_host_blocks: tuple[int, ...] = ()) -> None:
        runner = self.runner
        if runner.requests.max_len < runner.max_len:
            self.limit_length(runner.max_len)
        with self._starting("the KV cache and its swap space", KV_REMEDY):
            runner.allocate(num_blocks, num_host_blocks)
        runner.capture_graphs()

    @torch.inference_mode()
    def move_blocks(self, ops: KVOps) -> None:
        with self._starting("moving KV blocks", KV_REMEDY):
            self.runner.move_blocks(ops)

    @torch.inference_mode()
    def add_adapter(self, adapter: Adapter) -> None:
        slots = self.runner.adapters
        if slots is None:
            raise ExecutorError(without_adapters(self.config, self.whole))
        with self._starting(f"adapter {adapter.adapter_id} in host memory", ADAPTER_REMEDY):
            slots.keep(adapter)

    def remove_adapter(self, adapter_id: int) -> None:
        if self.runner.adapters is not None:
            self.runner.adapters.remove(adapter_id)

    def submit(self, step: SchedulerOutput) -> StepHandle:
        return self.runner.submit(step)

    def sample(self, handle: StepHandle, grammar_mask: bytes | None = None) -> None:
        self.runner.sample(handle, grammar_mask)

    def collect(self, handle: StepHandle) -> StepOutput:
        return self.runner.collect(handle)

    def take_drawn(self, handle: StepHandle, output: StepOutput) -> None:
        """Take in what the last stage drew, in place of `sample` and `collect`, on a stage that draws nothing."""
        self.runner.take_drawn(handle, output)

    def close(self) -> None:
        self.runner.close()

    def _read_weights(self) -> dict[str, Stored]:
        assert isinstance(self.whole, ModelSpec)
        runner, seed = self.runner, self.config.model.seed
        place = runner.parallel.place
        return read_weights(self.whole, self.files, runner.dtype, self.device, seed, place, packed=runner.packed)

    def _kv_bytes(self, counters: Counters) -> int:
        """Bytes left for KV blocks beside the largest step, which is run to measure it, and all that is allocated later."""
        runner, scheduler, cache = self.runner, self.config.scheduler, self.config.cache
        runner.allocate((2,) * len(runner.layout.groups))  # all write block 1, and the result is read by none
        graphs = runner.graphs
        computed = step_bytes(
            runner.spec,
            scheduler,
            runner.layout,
            runner.parallel.place,
            runner.ops,
            element_size=runner.dtype.itemsize,
            max_len=runner.max_len,
            packed=runner.packed,
            adapter_width=0 if runner.adapters is None else runner.adapters.width,
        )
        measured = measure(
            counters,
            runner.run_largest_step,
            computed,
            None
            if graphs is None
            else LargestGraph(
                len(graphs.keys), graphs.run_largest, lambda: graphs.capture(graphs.keys[:1]), graphs.forget
            ),
        )
        runner.cache = None
        given = cache.kv_cache_memory_bytes is not None or cache.num_gpu_blocks_override is not None
        share = cache.gpu_memory_utilization
        left = max(0, measured.left(share)) if given else measured.kv_bytes(share)
        if cache.swap_space_gib != 0:
            left -= swap_buffer_bytes(runner.layout)
        longest = longest_sequence(runner.layout, left, runner.max_len, scheduler.max_num_batched_tokens)
        return max(0, left - table_bytes(scheduler, runner.layout, longest))

    @contextmanager
    def _starting(self, what: str, remedy: str) -> Iterator[None]:
        """Add to an out of memory error at the start what helps: no request is to blame for it."""
        try:
            with self.runner.faults.watching():
                yield
        except OutOfMemoryError as error:
            raise OutOfMemoryError(f"there is not enough memory for {what}: {error}; {remedy}") from error
