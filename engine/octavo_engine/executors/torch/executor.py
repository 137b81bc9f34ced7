"""The torch executor: the contract of `executors.executor` over torch tensors, on any device torch has.

On a GPU it runs over Triton's kernels and CUDA graphs; on a CPU over the plain operations, slowly: it is the twin
that the native executor and every kernel are compared with. Asynchronous: what a step draws feeds the next one on the
device, and `collect` alone waits for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch
from torch import Tensor

from octavo_engine.config import EngineConfig, ModelFiles
from octavo_engine.core.capacity import longest_sequence
from octavo_engine.core.outputs import KVOps, SchedulerOutput, StepOutput
from octavo_engine.errors import OutOfMemoryError
from octavo_engine.executors.cores import number_of_threads
from octavo_engine.executors.executor import Capabilities, Capacity, Executor, StepHandle
from octavo_engine.executors.torch.causal_model import CausalModel
from octavo_engine.executors.torch.decoder import Decoder
from octavo_engine.executors.torch.device import device_of
from octavo_engine.executors.torch.dtypes import dtypes_of
from octavo_engine.executors.torch.faults import FaultWatch
from octavo_engine.executors.torch.graphs import CudaRecorder, DecodeGraphs, DecodeOutputs, GraphKey, Recorder
from octavo_engine.executors.torch.input_batch import MOST_VALUES, PersistentBatch, StepBatch, StepLayout, to_device
from octavo_engine.executors.torch.kv_cache import KV_DTYPES, KVCache, swap_buffer_bytes
from octavo_engine.executors.torch.memory import (
    Counters,
    CudaCounters,
    LargestGraph,
    largest_step,
    longest_of_step,
    measure,
)
from octavo_engine.executors.torch.parallel import ALONE, Parallel
from octavo_engine.executors.torch.sampler import GrammarMask, Results, Sampler, SamplingTable
from octavo_engine.executors.torch.scratch_cache import ScratchCache, blocks_for, with_blocks
from octavo_engine.executors.torch.step_memory import step_bytes, table_bytes
from octavo_engine.executors.torch.submitted import Drawn, SubmittedStep
from octavo_engine.executors.torch.weights import read_weights
from octavo_engine.executors.unsupported import refuse_unsupported
from octavo_engine.kernels.backends import operations_on
from octavo_engine.kernels.operations import Operations
from octavo_engine.kernels.packing import Stored
from octavo_models.outline import Model, ModelOutline
from octavo_models.partition import kv_layout, part
from octavo_models.spec import ModelSpec

logger = logging.getLogger(__name__)

LOAD_REMEDY = (
    "choose a smaller or a quantized model, spread it with --tensor-parallel-size, or lower --max-num-batched-tokens "
    "or --max-num-seqs"
)
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
        self.config = config
        self.whole = spec
        self.parallel = parallel
        self.spec = part(spec, parallel.place)  # what this rank runs of it
        self.files = files
        self.device = device or device_of(config.executor.device)
        on_card = self.device.type == "cuda"
        self.ops = operations or operations_on(self.device, config.executor.kernel_parameters)
        self._counters = counters or (CudaCounters(self.device) if on_card else None)
        self._faults = faults or FaultWatch.of(self.device)
        as_stored = config.model.dtype == "auto" and spec.quantization is not None
        self.dtype, self.kv_format = dtypes_of(config.model.dtype, spec, on_gpu=self.device.type != "cpu")
        self.packed = as_stored and self.ops.prefers_packed
        self.layout = kv_layout(spec, parallel.place, config.cache.block_size, self.kv_format)
        self._pools = isinstance(spec, ModelSpec) and spec.pooling is not None
        self._max_len = config.model.max_model_len or spec.max_position
        self.requests = self._tables(min(self._max_len, longest_of_step(config.scheduler)))
        self._weights = weights or self._read_weights
        self._decoder: CausalModel | None = None
        self._sampler: Sampler | None = None
        self._cache: KVCache | ScratchCache | None = None
        self._submitted: dict[int, SubmittedStep] = {}
        self._drawn: dict[int, Drawn] = {}
        self._graphs: DecodeGraphs | None = None
        if recorder is None and on_card:
            recorder = CudaRecorder()
        self._recorder = recorder
        self._make_graphs()

    @property
    def capabilities(self) -> Capabilities:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        name = f"torch {torch.__version__} on {name}"
        return Capabilities(name, asynchronous=True, grammar_masks=True, swapping=True, pooling=True)

    @torch.inference_mode()
    def load(self) -> Capacity:
        flag = self.config.executor.threads
        threads = number_of_threads(flag)  # beside GPUs too: each rank's host converts weights as they are read
        torch.set_num_threads(threads if flag is not None else min(threads, torch.get_num_threads()))
        with _starting("the model and its largest step", LOAD_REMEDY), self._faults.watching():
            return self._load()

    def _load(self) -> Capacity:
        if self.device.type == "cuda":
            from octavo_engine.executors.torch.warm_up import prepare_kernels  # noqa: PLC0415 — it runs an executor

            prepare_kernels(self)
        decoder, weight_bytes = self._built()
        self._decoder = decoder
        self._make_sampler(decoder)
        if self._pools:
            self._allocate(())
            if self._counters is not None:  # what does not fit is found at the start, not by a request
                self._largest_step()
            return Capacity(self.layout, weight_bytes, None)
        kv_bytes = None if self._counters is None else self._kv_bytes(self._counters)
        return Capacity(self.layout, weight_bytes, kv_bytes)

    def _built(self) -> tuple[CausalModel, int]:
        """The model, and the bytes of its weights."""
        if isinstance(self.spec, ModelOutline):
            from octavo_engine.executors.torch.transformers_check import checked_decoder  # noqa: PLC0415

            return checked_decoder(
                self.spec,
                self.files,
                self.ops,
                self.layout,
                dtype=self.dtype,
                kv_format=self.kv_format,
                device=self.device,
                seed=self.config.model.seed,
            )
        weights = self._weights()
        weight_bytes = sum(weight.nbytes for weight in weights.values())
        return Decoder(self.spec, weights, self.ops, self.dtype, self.parallel), weight_bytes

    def beat_into(self, beats: memoryview) -> None:
        def beat() -> None:
            beats[0] += 1

        decoder, _, cache = self._loaded()
        decoder.on_part = cache.on_part = beat

    def limit_length(self, max_len: int) -> None:
        assert self._decoder is not None, "load comes first"
        self._max_len = max_len
        with _starting("the tables of requests", LOAD_REMEDY), self._faults.watching():
            self.requests = self._tables(max_len)
            self._make_sampler(self._decoder)
            self._make_graphs()

    @torch.inference_mode()
    def init_kv(self, num_blocks: tuple[int, ...], num_host_blocks: tuple[int, ...] = ()) -> None:
        if self.requests.max_len < self._max_len:
            self.limit_length(self._max_len)
        self._allocate(num_blocks, num_host_blocks)
        if self._graphs is not None:
            start = time.perf_counter()
            with self._faults.watching():
                self._graphs.capture()
                self._faults.synchronize()  # what a kernel did wrong shows by now, and not to the first request
            logger.info("captured %d CUDA graphs (%.1f s)", self._graphs.num_recorded, time.perf_counter() - start)

    def _allocate(self, num_blocks: tuple[int, ...], num_host_blocks: tuple[int, ...] = ()) -> None:
        with _starting("the KV cache and its swap space", KV_REMEDY), self._faults.watching():
            if self._pools:
                assert isinstance(self.spec, ModelSpec)
                scheduler, block_size = self.config.scheduler, self.layout.block_size
                whole = blocks_for(scheduler.max_num_batched_tokens, scheduler.max_num_seqs, block_size)
                self._cache = ScratchCache(self.spec, whole, block_size, KV_DTYPES[self.kv_format], self.device)
                return
            self._cache = KVCache(self.spec, self.layout, num_blocks, self.kv_format, self.device, num_host_blocks)

    @torch.inference_mode()
    def move_blocks(self, ops: KVOps) -> None:
        assert self._cache is not None, "init_kv comes before move_blocks"
        with _starting("moving KV blocks", KV_REMEDY), self._faults.watching():
            self._cache.apply(ops)
            self._faults.synchronize()

    @torch.inference_mode()
    def submit(self, step: SchedulerOutput) -> StepHandle:
        decoder, sampler, cache = self._loaded()
        if self._pools:
            step = with_blocks(step, self.layout.block_size)
        with self._faults.watching():
            batch = self.requests.apply(step)
            sampler.table.update(batch.states)
            cache.apply(step.kv_ops)
            key = None if self._graphs is None else self._graphs.key(batch, draws=sampler.table.is_plain(batch))
            submitted = self._eager(step, batch, decoder, cache) if key is None else self._replayed(step, batch, key)
        positions = [batch.seq_lens[i] for i in batch.drawing]
        submitted.results = Results([batch.states[i] for i in batch.drawing], positions, batch.errors)
        self._submitted[step.step_id] = submitted
        return StepHandle(step.step_id)

    @torch.inference_mode()
    def sample(self, handle: StepHandle, grammar_mask: bytes | None = None) -> None:
        submitted = self._submitted.pop(handle.step_id)  # a draw that fails leaves nothing of its step
        _, sampler, _ = self._loaded()
        drawn = Drawn(submitted.results)
        results = drawn.results
        with self._faults.watching():
            if self._pools:
                results.pooled = self.pooled(submitted).to("cpu", non_blocking=True)
            elif submitted.drawn is None:
                submitted.drawn, results.scored = sampler.draw_step(
                    submitted.batch,
                    submitted.hidden,
                    submitted.query_starts,
                    submitted.rows,
                    submitted.seq_lens,
                    submitted.drawing,
                    None if grammar_mask is None else GrammarMask(submitted.step.constrained, grammar_mask),
                )
                results.prompts = sampler.score_prompts(submitted.step, submitted.batch, submitted.hidden)
            if submitted.drawn is not None:
                results.drawn = submitted.drawn.to("cpu", non_blocking=True, copy=True)
            if self.device.type == "cuda":
                # A spinning wait would take a core a rank.
                drawn.done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
                drawn.done.record()
        self._drawn[handle.step_id] = drawn

    def pooled(self, submitted: SubmittedStep) -> Tensor:
        """The vectors of a step's prompts: [num_requests, size] float32, on the device."""
        assert isinstance(self._decoder, Decoder)
        assert self._decoder.pooler is not None
        results = submitted.results
        results.pooling = submitted.batch.states
        if not submitted.batch.num_requests:
            return submitted.hidden.float()
        return self._decoder.pooler(self.ops, submitted.hidden, submitted.query_starts)

    @torch.inference_mode()
    def pooled_nowhere(self, step: SchedulerOutput) -> None:
        """Launch what a step of prompts launches, and read nothing: for a rehearsal."""
        handle = self.submit(step)
        self.pooled(self._submitted.pop(handle.step_id))

    def collect(self, handle: StepHandle) -> StepOutput:
        drawn = self._drawn.pop(handle.step_id)
        with self._faults.watching():
            if drawn.done is not None:
                drawn.done.synchronize()
            return drawn.results.read(handle.step_id)

    @torch.inference_mode()
    def take_drawn(self, handle: StepHandle, output: StepOutput) -> None:
        """Take in what the last stage drew, in place of `sample` and `collect`, on a stage that draws nothing."""
        submitted = self._submitted.pop(handle.step_id)
        results = submitted.results
        with self._faults.watching():
            self._append(submitted, output)
        results.read(handle.step_id)

    def _append(self, submitted: SubmittedStep, output: StepOutput) -> None:
        results = submitted.results
        drawn = [output.tokens.get(s.request_id, [-1])[0] for s in results.drawing]
        if drawn:
            results.drawn = torch.tensor(drawn, dtype=torch.int64)
            rows, seq_lens = submitted.rows[submitted.drawing], submitted.seq_lens[submitted.drawing].long()
            self.ops.append_tokens(self.requests.token_ids, rows, seq_lens, results.drawn.to(self.device))

    def close(self) -> None:
        """Wait for the device and drop the graphs: what they have captured of others' must outlive them."""
        with suppress(Exception):  # a lost device has nothing to wait for
            self._faults.synchronize()
        if self._graphs is not None:
            self._graphs.forget()
        if self._cache is not None:
            self._cache.close()
        self._decoder = self._sampler = self._cache = self._graphs = None
        self._submitted.clear()
        self._drawn.clear()
        self.requests.clear()

    def _tables(self, max_len: int) -> PersistentBatch:
        """Allocate the tables of requests of up to `max_len` tokens."""
        return PersistentBatch(
            self.ops,
            vocab_size=self.whole.vocab_size,
            block_size=self.layout.block_size,
            num_groups=1 if self._pools else len(self.layout.groups),
            max_requests=self.config.scheduler.max_num_seqs,
            max_len=max_len,
            device=self.device,
        )

    def _make_sampler(self, decoder: CausalModel) -> None:
        table = SamplingTable(self.config.scheduler.max_num_seqs, self.device)
        self._sampler = Sampler(self.ops, table, self.requests.token_ids, decoder.logits)

    def _make_graphs(self) -> None:
        """Replace the graphs by ones over the present tables, none of them recorded yet."""
        if self._graphs is not None:
            self._graphs.forget()
        if self._recorder is None or self.config.executor.enforce_eager or self.parallel.place.num_stages > 1:
            return
        if self._pools or isinstance(self.spec, ModelOutline):
            return  # its code may read tensors back, or choose by their sizes
        self._graphs = DecodeGraphs(
            self._decode,
            self._recorder,
            max_requests=self.config.scheduler.max_num_seqs,
            num_groups=len(self.layout.groups),
            device=self.device,
            faults=self._faults,
            worst=self.parallel.worst,
        )

    def _read_weights(self) -> dict[str, Stored]:
        assert isinstance(self.whole, ModelSpec)
        seed, place = self.config.model.seed, self.parallel.place
        return read_weights(self.whole, self.files, self.dtype, self.device, seed, place, packed=self.packed)

    def _eager(
        self, step: SchedulerOutput, batch: StepBatch, decoder: CausalModel, cache: KVCache | ScratchCache
    ) -> SubmittedStep:
        if batch.num_values > MOST_VALUES:
            self.requests.send(batch.runs)
        layout = StepLayout.of(batch)
        rows, drawing = layout.split(to_device(layout.pack(batch), self.device))
        if not batch.num_requests:
            self.requests.write_runs(rows)
            nothing = torch.empty(0, self.spec.hidden_size, dtype=self.dtype, device=self.device)
            return SubmittedStep(step, batch, nothing, rows.rows, rows.query_starts, rows.rows, drawing)
        inputs, seq_lens = self.requests.inputs(
            rows,
            num_tokens=batch.num_tokens,
            decode_lens=tuple(batch.seq_lens[: batch.num_decodes]),
            max_query_len=max(batch.counts),
            max_seq_len=max(batch.seq_lens),
        )
        if self._pools:
            inputs = replace(inputs, token_types=batch.token_types(self.device))
        hidden = decoder.forward(inputs, cache)
        return SubmittedStep(step, batch, hidden, rows.rows, rows.query_starts, seq_lens, drawing)

    def _replayed(self, step: SchedulerOutput, batch: StepBatch, key: GraphKey) -> SubmittedStep:
        assert self._graphs is not None
        if not self._graphs.fits(key, batch):
            self.requests.send(batch.runs)
        made = self._graphs.run(key, batch)
        rows, drawing = made.rows, made.drawing[: len(batch.drawing)]
        return SubmittedStep(step, batch, made.hidden, rows.rows, rows.query_starts, made.seq_lens, drawing, made.drawn)

    def _decode(self, key: GraphKey, layout: StepLayout, buffer: Tensor) -> DecodeOutputs:
        """A step of decodes out of `buffer`: what a graph records."""
        decoder, sampler, cache = self._loaded()
        rows, drawing = layout.split(buffer)
        n, longest = key.num_requests, self.requests.max_len
        inputs, seq_lens = self.requests.inputs(
            rows, num_tokens=n, decode_lens=(longest,) * n, max_query_len=1, max_seq_len=longest
        )
        hidden = decoder.forward(inputs, cache)
        drawn = sampler.draw(decoder.logits(hidden), rows.rows, seq_lens) if key.draws else None
        return DecodeOutputs(rows, drawing, hidden, seq_lens, drawn)

    def _kv_bytes(self, counters: Counters) -> int:
        """Bytes left for KV blocks beside the largest step, which is run to measure it, and all that is allocated later."""
        self._allocate((2,) * len(self.layout.groups))  # all write block 1, and the result is read by none
        config, graphs = self.config, self._graphs
        computed = step_bytes(
            self.spec,
            config.scheduler,
            self.layout,
            self.parallel.place,
            self.ops,
            element_size=self.dtype.itemsize,
            max_len=self._max_len,
            packed=self.packed,
        )
        measured = measure(
            counters,
            self._largest_step,
            computed,
            None
            if graphs is None
            else LargestGraph(
                len(graphs.keys), graphs.run_largest, lambda: graphs.capture(graphs.keys[:1]), graphs.forget
            ),
        )
        self._cache = None
        cache = config.cache
        given = cache.kv_cache_memory_bytes is not None or cache.num_gpu_blocks_override is not None
        share = cache.gpu_memory_utilization
        left = max(0, measured.left(share)) if given else measured.kv_bytes(share)
        if cache.swap_space_gib != 0:
            left -= swap_buffer_bytes(self.layout)
        longest = longest_sequence(self.layout, left, self._max_len, config.scheduler.max_num_batched_tokens)
        return max(0, left - table_bytes(config.scheduler, self.layout, longest))

    def _largest_step(self) -> None:
        step = largest_step(self.config.scheduler, self.layout, self.requests.max_len, draws=not self._pools)
        handle = self.submit(step)
        if self.parallel.place.last_stage:
            self.sample(handle)
            self.collect(handle)
        self._submitted.clear()
        self._drawn.clear()
        self.requests.clear()

    def _loaded(self) -> tuple[CausalModel, Sampler, KVCache | ScratchCache]:
        assert self._decoder is not None, "load comes first"
        assert self._sampler is not None
        assert self._cache is not None, "init_kv comes before submit"
        return self._decoder, self._sampler, self._cache


@contextmanager
def _starting(what: str, remedy: str) -> Iterator[None]:
    """Add to an out of memory error at the start what helps: no request is to blame for it."""
    try:
        yield
    except OutOfMemoryError as error:
        raise OutOfMemoryError(f"there is not enough memory for {what}: {error}; {remedy}") from error
