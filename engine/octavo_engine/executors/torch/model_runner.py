"""Runs the steps of a model, or of one rank's part of it: what is launched for each, and what is read back.

Owns the tables of requests, the sampler, the KV cache and the graphs. Does not know where weights come from, how the
device's memory is divided, or which kernels are compiled beforehand: a rehearsal runs it without a device.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from octavo_engine.config import EngineConfig
from octavo_engine.core.outputs import KVOps, SchedulerOutput, StepOutput
from octavo_engine.executors.executor import StepHandle
from octavo_engine.executors.torch.adapted_rows import adapted_rows
from octavo_engine.executors.torch.adapter_slots import AdapterSlots
from octavo_engine.executors.torch.causal_model import CausalModel
from octavo_engine.executors.torch.decoder import Decoder
from octavo_engine.executors.torch.dtypes import dtypes_of
from octavo_engine.executors.torch.faults import FaultWatch
from octavo_engine.executors.torch.graphs import AdapterTiles, DecodeGraphs, DecodeOutputs, GraphKey, Recorder
from octavo_engine.executors.torch.input_batch import MOST_VALUES, PersistentBatch, StepBatch, StepLayout, to_device
from octavo_engine.executors.torch.kv_cache import KV_DTYPES, KVCache
from octavo_engine.executors.torch.memory import largest_step, longest_of_step
from octavo_engine.executors.torch.parallel import ALONE, Parallel
from octavo_engine.executors.torch.sampler import GrammarMask, Results, Sampler, SamplingTable
from octavo_engine.executors.torch.scratch_cache import ScratchCache, blocks_for, with_blocks
from octavo_engine.executors.torch.submitted import Drawn, SubmittedStep
from octavo_engine.kernels.adapter_weights import AdapterWeights
from octavo_engine.kernels.operations import Operations
from octavo_engine.weights.adapter import Adapter
from octavo_models.outline import Model, ModelOutline
from octavo_models.partition import kv_layout, part
from octavo_models.spec import ModelSpec

logger = logging.getLogger(__name__)


class ModelRunner:
    """A model, or the part of it at `parallel.place`, on `device`. `take_model` comes first, then `allocate`, then steps.

    `recorder` records decodes as graphs; without one they run as other steps do.
    """

    def __init__(
        self,
        config: EngineConfig,
        whole: Model,
        device: torch.device,
        ops: Operations,
        parallel: Parallel = ALONE,
        *,
        recorder: Recorder | None = None,
        faults: FaultWatch | None = None,
    ) -> None:
        self.config = config
        self.parallel = parallel
        self.spec = part(whole, parallel.place)  # what this rank runs of it
        self.device = device
        self.ops = ops
        self.faults = faults or FaultWatch.of(device)
        self.dtype, self.kv_format = dtypes_of(config.model.dtype, whole, on_gpu=device.type != "cpu")
        self.packed = config.model.dtype == "auto" and whole.quantization is not None and ops.prefers_packed
        self.layout = kv_layout(whole, parallel.place, config.cache.block_size, self.kv_format)
        self.pools = isinstance(whole, ModelSpec) and whole.pooling is not None
        self.max_len = config.model.max_model_len or whole.max_position
        self._vocab_size = whole.vocab_size
        self._recorder = recorder
        adaptable = config.adapters.enabled and not self.pools
        self._adapted_model = whole if adaptable and isinstance(whole, ModelSpec) else None
        self.adapters: AdapterSlots | None = None
        self.requests = self._tables(min(self.max_len, longest_of_step(config.scheduler)))
        self.decoder: CausalModel | None = None
        self.sampler: Sampler | None = None
        self.cache: KVCache | ScratchCache | None = None
        self.graphs = self._unrecorded_graphs()
        self._submitted: dict[int, SubmittedStep] = {}
        self._drawn: dict[int, Drawn] = {}

    def take_model(self, decoder: CausalModel) -> None:
        """Run `decoder` from now on."""
        self.decoder = decoder
        self._make_sampler(decoder)

    @property
    def takes_adapters(self) -> bool:
        return self._adapted_model is not None

    def allocate_adapters(self) -> None:
        """Allocate slots for adapters, where the engine has any: before the model, which refers to them."""
        if self._adapted_model is not None:
            config, place = self.config.adapters, self.parallel.place
            self.adapters = AdapterSlots(self._adapted_model, place, config, self.dtype, self.device)

    def adapted_product(self, names: tuple[str, ...]) -> AdapterWeights | None:
        """The slots of what adapters may add to the product of these weights; None: nothing."""
        return None if self.adapters is None else self.adapters.of(names)

    def limit_length(self, max_len: int) -> None:
        """Replace the tables by ones of sequences of up to `max_len` tokens, and graphs by ones over these."""
        assert self.decoder is not None, "the model comes first"
        self.max_len = max_len
        self.requests = self._tables(max_len)
        self._make_sampler(self.decoder)
        if self.graphs is not None:
            self.graphs.forget()
        self.graphs = self._unrecorded_graphs()

    def allocate(self, num_blocks: tuple[int, ...], num_host_blocks: tuple[int, ...] = ()) -> None:
        """Allocate the KV cache; of a model that pools, what one step needs of it."""
        if self.pools:
            assert isinstance(self.spec, ModelSpec)
            scheduler, block_size = self.config.scheduler, self.layout.block_size
            whole = blocks_for(scheduler.max_num_batched_tokens, scheduler.max_num_seqs, block_size)
            self.cache = ScratchCache(self.spec, whole, block_size, KV_DTYPES[self.kv_format], self.device)
        else:
            self.cache = KVCache(self.spec, self.layout, num_blocks, self.kv_format, self.device, num_host_blocks)

    def capture_graphs(self) -> None:
        """Record all graphs there are to be, and wait for the device.

        Raises:
            DeviceLostError: the device did not survive it.
        """
        if self.graphs is None:
            return
        start = time.perf_counter()
        with self.faults.watching():
            self.graphs.capture()
            self.faults.synchronize()  # what a kernel did wrong shows by now, and not to the first request
        logger.info("captured %d CUDA graphs (%.1f s)", self.graphs.num_recorded, time.perf_counter() - start)

    def beat_into(self, beats: memoryview) -> None:
        """See `Executor.beat_into`."""

        def beat() -> None:
            beats[0] += 1

        decoder, _, cache = self._ready()
        decoder.on_part = cache.on_part = beat

    def move_blocks(self, ops: KVOps) -> None:
        """See `Executor.move_blocks`."""
        assert self.cache is not None, "allocate comes before move_blocks"
        self.cache.apply(ops)
        self.faults.synchronize()

    @torch.inference_mode()
    def submit(self, step: SchedulerOutput) -> StepHandle:
        """See `Executor.submit`."""
        decoder, sampler, cache = self._ready()
        if self.pools:
            step = with_blocks(step, self.layout.block_size)
        with self.faults.watching():
            batch = self.requests.apply(step)
            batch = self._with_adapters(batch)
            sampler.table.update(batch.states)
            cache.apply(step.kv_ops)
            plain = not step.constrained and sampler.table.is_plain(batch)
            key = None if self.graphs is None else self.graphs.key(batch, draws=plain)
            submitted = self._eager(step, batch, decoder, cache) if key is None else self._replayed(step, batch, key)
        positions = [batch.seq_lens[i] for i in batch.drawing]
        submitted.results = Results([batch.states[i] for i in batch.drawing], positions, batch.errors)
        self._submitted[step.step_id] = submitted
        return StepHandle(step.step_id)

    @torch.inference_mode()
    def sample(self, handle: StepHandle, grammar_mask: bytes | None = None) -> None:
        """See `Executor.sample`."""
        submitted = self._submitted.pop(handle.step_id)  # a draw that fails leaves nothing of its step
        _, sampler, _ = self._ready()
        drawn = Drawn(submitted.results)
        results = drawn.results
        with self.faults.watching():
            if self.pools:
                results.pooled = self._pooled(submitted).to("cpu", non_blocking=True)
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

    @torch.inference_mode()
    def collect(self, handle: StepHandle) -> StepOutput:
        """See `Executor.collect`."""
        drawn = self._drawn.pop(handle.step_id)
        with self.faults.watching():
            if drawn.done is not None:
                drawn.done.synchronize()
            return drawn.results.read(handle.step_id)

    @torch.inference_mode()
    def take_drawn(self, handle: StepHandle, output: StepOutput) -> None:
        """Take in what the last stage drew, in place of `sample` and `collect`, on a stage that draws nothing."""
        submitted = self._submitted.pop(handle.step_id)
        results = submitted.results
        with self.faults.watching():
            self._append(submitted, output)
        results.read(handle.step_id)

    @torch.inference_mode()
    def pooled_nowhere(self, step: SchedulerOutput) -> None:
        """Launch what a step of prompts launches, and read nothing: for a rehearsal."""
        handle = self.submit(step)
        self._pooled(self._submitted.pop(handle.step_id))

    @torch.inference_mode()
    def run_largest_step(self) -> None:
        """Run the step that takes most memory; its requests are gone afterwards."""
        slots = self.adapters
        adapter_ids = range(0) if slots is None else range(1, slots.max_loras + 1)
        if slots is not None:
            for adapter_id in adapter_ids:
                slots.keep(Adapter(adapter_id, ()))  # without parts: as much is allocated, and nothing computed
        draws, longest = not self.pools, self.requests.max_len
        step = largest_step(self.config.scheduler, self.layout, longest, draws=draws, adapter_ids=adapter_ids)
        handle = self.submit(step)
        if self.parallel.place.last_stage:
            self.sample(handle)
            self.collect(handle)
        self._submitted.clear()
        self._drawn.clear()
        self.requests.clear()
        if slots is not None:
            for adapter_id in adapter_ids:
                slots.remove(adapter_id)

    def close(self) -> None:
        """Wait for the device and drop the graphs: what they have captured of others' must outlive them."""
        with suppress(Exception):  # a lost device has nothing to wait for
            self.faults.synchronize()
        if self.graphs is not None:
            self.graphs.forget()
        if self.cache is not None:
            self.cache.close()
        self.decoder = self.sampler = self.cache = self.graphs = self.adapters = None
        self._submitted.clear()
        self._drawn.clear()
        self.requests.clear()

    def _pooled(self, submitted: SubmittedStep) -> Tensor:
        """The vectors of a step's prompts: [num_requests, size] float32, on the device."""
        assert isinstance(self.decoder, Decoder)
        assert self.decoder.pooler is not None
        results = submitted.results
        results.pooling = submitted.batch.states
        if not submitted.batch.num_requests:
            return submitted.hidden.float()
        return self.decoder.pooler(self.ops, submitted.hidden, submitted.query_starts)

    def _append(self, submitted: SubmittedStep, output: StepOutput) -> None:
        results = submitted.results
        drawn = [output.tokens.get(s.request_id, [-1])[0] for s in results.drawing]
        if drawn:
            results.drawn = torch.tensor(drawn, dtype=torch.int64)
            rows, seq_lens = submitted.rows[submitted.drawing], submitted.seq_lens[submitted.drawing].long()
            self.ops.append_tokens(self.requests.token_ids, rows, seq_lens, results.drawn.to(self.device))

    def _tables(self, max_len: int) -> PersistentBatch:
        """Allocate the tables of requests of up to `max_len` tokens."""
        return PersistentBatch(
            self.ops,
            vocab_size=self._vocab_size,
            block_size=self.layout.block_size,
            num_groups=1 if self.pools else len(self.layout.groups),
            max_requests=self.config.scheduler.max_num_seqs,
            max_len=max_len,
            device=self.device,
            has_adapter=lambda adapter_id: self.adapters is not None and self.adapters.has(adapter_id),
        )

    def _with_adapters(self, batch: StepBatch) -> StepBatch:
        """`batch` with the rows that use adapters, each of which is in a slot from now on."""
        if self.adapters is None:
            return batch
        ids = [state.adapter_id for state in batch.states]
        slots = self.adapters.place(adapter_id for adapter_id in ids if adapter_id)
        adapted = adapted_rows(ids, batch.counts, slots, self.ops.adapter_tile)
        return batch if adapted is None else replace(batch, adapted=adapted)

    def _make_sampler(self, decoder: CausalModel) -> None:
        table = SamplingTable(self.config.scheduler.max_num_seqs, self.device)
        self.sampler = Sampler(self.ops, table, self.requests.token_ids, decoder.logits)

    def _unrecorded_graphs(self) -> DecodeGraphs | None:
        """Graphs over the present tables, none of them recorded yet."""
        if self._recorder is None or self.config.executor.enforce_eager or self.parallel.place.num_stages > 1:
            return None
        if self.pools or isinstance(self.spec, ModelOutline):
            return None  # its code may read tensors back, or choose by their sizes
        return DecodeGraphs(
            self._decode,
            self._recorder,
            max_requests=self.config.scheduler.max_num_seqs,
            num_groups=len(self.layout.groups),
            device=self.device,
            faults=self.faults,
            worst=self.parallel.worst,
            adapters=None if self.adapters is None else AdapterTiles(self.adapters.max_loras, self.ops.adapter_tile),
        )

    def _eager(
        self, step: SchedulerOutput, batch: StepBatch, decoder: CausalModel, cache: KVCache | ScratchCache
    ) -> SubmittedStep:
        if batch.num_values > MOST_VALUES:
            self.requests.send(batch.runs)
        layout = StepLayout.of(batch)
        buffer = to_device(layout.pack(batch), self.device)
        rows, drawing = layout.split(buffer)
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
        if self.pools:
            inputs = replace(inputs, token_types=batch.token_types(self.device))
        if batch.adapted is not None:
            inputs = replace(inputs, adapters=layout.adapter_rows(buffer))
        hidden = decoder.forward(inputs, cache)
        return SubmittedStep(step, batch, hidden, rows.rows, rows.query_starts, seq_lens, drawing)

    def _replayed(self, step: SchedulerOutput, batch: StepBatch, key: GraphKey) -> SubmittedStep:
        assert self.graphs is not None
        if not self.graphs.fits(key, batch):
            self.requests.send(batch.runs)
        made = self.graphs.run(key, batch)
        rows, drawing = made.rows, made.drawing[: len(batch.drawing)]
        return SubmittedStep(step, batch, made.hidden, rows.rows, rows.query_starts, made.seq_lens, drawing, made.drawn)

    def _decode(self, key: GraphKey, layout: StepLayout, buffer: Tensor) -> DecodeOutputs:
        """A step of decodes out of `buffer`: what a graph records."""
        decoder, sampler, cache = self._ready()
        rows, drawing = layout.split(buffer)
        n, longest = key.num_requests, self.requests.max_len
        inputs, seq_lens = self.requests.inputs(
            rows, num_tokens=n, decode_lens=(longest,) * n, max_query_len=1, max_seq_len=longest
        )
        hidden = decoder.forward(replace(inputs, adapters=layout.adapter_rows(buffer)), cache)
        drawn = sampler.draw(decoder.logits(hidden), rows.rows, seq_lens) if key.draws else None
        return DecodeOutputs(rows, drawing, hidden, seq_lens, drawn)

    def _ready(self) -> tuple[CausalModel, Sampler, KVCache | ScratchCache]:
        assert self.decoder is not None, "the model comes first"
        assert self.sampler is not None
        assert self.cache is not None, "allocate comes before steps"
        return self.decoder, self.sampler, self.cache
