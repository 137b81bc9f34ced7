"""The native executor: the contract of `executors.executor` over one C++ decoder. Needs no torch.

Owns the way from request ids and scheduler outputs to the decoder's slots and flat lists, and back. A step is three
native calls; what a request is (its tokens, blocks, penalties) lives in the decoder.
"""

from __future__ import annotations

import importlib
import logging
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from octavo_engine.config import EngineConfig, ModelFiles
from octavo_engine.core.outputs import KVOps, NewRequest, SchedulerOutput, StepOutput
from octavo_engine.errors import ConfigError, ExecutorError
from octavo_engine.executors.cores import number_of_threads
from octavo_engine.executors.executor import NOT_FINITE, Capabilities, Capacity, Executor, StepHandle
from octavo_engine.executors.native.model import decoder_model
from octavo_engine.executors.unsupported import refuse_unsupported
from octavo_engine.messages import TokenLogprob
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.weights.load import load_weights, open_checkpoint
from octavo_models.formats import FORMATS
from octavo_models.panels import VALUE_MULTIPLE
from octavo_models.spec import FORMAT_OF_DTYPE, ModelSpec

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    from octavo_engine.executors.native import _native
    from octavo_engine.weights.adapter import Adapter

logger = logging.getLogger(__name__)

AS_STORED = -1
INTERFACE = Path(__file__).with_name("_native.pyi")  # images do without: all of it is built at once there
UNKNOWN = "the executor has no such request"


class NativeExecutor(Executor):
    """One model on this machine's cores.

    Raises:
        ExecutorError: the extension isn't built, or the model has a feature that it doesn't run.
    """

    def __init__(self, config: EngineConfig, spec: ModelSpec, files: ModelFiles) -> None:
        self._native = _extension()
        refuse_unsupported(spec, "native")
        self._config = config
        self._spec = spec
        self._files = files
        self._threads = _threads(config)
        self._isa = _isa(self._native)
        if self._isa == self._native.ISAS["scalar"]:
            logger.warning(
                "this CPU has no AVX2 (or OCTAVO_NATIVE_ISA hides it): the native executor runs many times slower"
            )
        dtype = config.model.dtype
        as_stored = dtype == "auto"
        whole = spec.dtype == "float32" and spec.quantization is None if as_stored else dtype == "float32"
        self._kv_format = "f32" if whole else "bf16"
        self._widen = AS_STORED if as_stored else _format_number(FORMAT_OF_DTYPE[dtype])
        self._decoder: _native.Decoder | None = None
        self._slots: dict[str, int] = {}
        self._ids: list[str] = []  # of the step's batch
        self._mask_rows: list[int] = []  # of the batch's requests
        self._errors: dict[str, str] = {}  # of the step's requests that are not in the batch
        self._refused: dict[str, str] = {}  # requests that the decoder would not take, and why
        self._output: StepOutput | None = None
        self._num_blocks: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    @property
    def capabilities(self) -> Capabilities:
        threads = f"{self._threads} thread" + ("s" if self._threads > 1 else "")
        isa = next(name for name, number in self._native.ISAS.items() if number == self._isa)
        return Capabilities(
            name=f"native {isa}, {threads}",
            grammar_masks=True,
            swapping=True,
            pooling=True,
            adapters=self._spec.pooling is None,
            sleeping=self._spec.pooling is None,
        )

    def load(self) -> Capacity:
        block_size = self._config.cache.block_size
        layout = self._spec.kv_layout(block_size, self._kv_format, VALUE_MULTIPLE)
        try:
            decoder: _native.Decoder = self._native.Decoder(
                decoder_model(self._native, self._spec, layout),
                threads=self._threads,
                isa=self._isa,
                kv_bf16=self._kv_format == "bf16",
                block_size=block_size,
                max_rows=self._config.scheduler.max_num_batched_tokens,
                max_drawn=self._config.scheduler.max_num_seqs,
                widen=self._widen,
            )
            weight_bytes = self._pack(decoder)
        except (ValueError, RuntimeError) as error:
            raise ExecutorError(f"the native executor can't run {self._spec.architecture}: {error}") from error
        except MemoryError as error:
            raise ExecutorError(
                "this machine has too little memory for the weights: choose a smaller or a quantized model, or raise the "
                "container's memory limit"
            ) from error
        self._decoder = decoder
        return Capacity(layout, weight_bytes, None)

    def _pack(self, decoder: _native.Decoder) -> int:
        """Hand every weight to the decoder. Each layer is packed once it is whole, so that no second copy piles up."""
        with closing(open_checkpoint(self._files, self._spec, self._config.model.seed)) as checkpoint:
            held: list[NDArray[np.uint8]] = []
            layer: int | None = None
            for weight, stored in load_weights(self._spec, checkpoint):
                if weight.layer != layer:
                    decoder.pack_layers(0 if layer is None else layer + 1)
                    held.clear()
                    layer = weight.layer
                rows = weight.shape[0] if len(weight.shape) > 1 else 1
                decoder.add_weight(weight.name, _format_number(stored.format), rows, weight.shape[-1], stored.data)
                held.append(stored.data)
            return decoder.finalize()

    def beat_into(self, beats: memoryview) -> None:
        self._loaded().beat_into(beats)

    def init_kv(self, num_blocks: tuple[int, ...], num_host_blocks: tuple[int, ...] = ()) -> None:
        self._num_blocks = num_blocks, num_host_blocks
        self._loaded().init_kv(list(num_blocks), list(num_host_blocks))

    def sleep(self, level: int) -> None:
        if level != 1:
            super().sleep(level)
        self._loaded().init_kv([1] * len(self._num_blocks[0]), [])

    def wake(self) -> None:
        """Allocate the blocks again, which take memory as they are used."""
        self._loaded().init_kv(*map(list, self._num_blocks))

    def touch_kv(self) -> None:
        self._loaded().touch_kv()

    def move_blocks(self, ops: KVOps) -> None:
        decoder = self._loaded()
        for move, blocks in (
            (decoder.swap_out, ops.swap_out),
            (decoder.copy_block, ops.copies),
            (decoder.swap_in, ops.swap_in),
        ):
            for group, source, target in blocks:
                move(group, source, target)

    def submit(self, step: SchedulerOutput) -> StepHandle:
        decoder = self._loaded()
        slots = self._slots
        for request_id in step.finished_ids:
            slot = slots.pop(request_id, None)
            if slot is not None:
                decoder.remove_request(slot)
            self._refused.pop(request_id, None)
        computed: dict[str, int] = {}
        for new in step.new:
            self._add(decoder, new)
            computed[new.request_id] = new.num_computed_tokens
        for continued in step.continued:
            request_id = continued.request_id
            slot = slots.get(request_id)
            if slot is None:
                continue
            computed[request_id] = continued.num_computed_tokens
            if continued.resumed:
                decoder.clear_blocks(slot)
            for group, blocks in enumerate(continued.block_ids):
                if blocks:
                    decoder.append_blocks(slot, group, blocks)
        self.move_blocks(step.kv_ops)
        scheduled, wanted, samples = step.num_scheduled_tokens, step.logits_wanted, step.samples
        self._ids = ids = [r for r in scheduled if r in slots]
        row_of = {r: row for row, r in enumerate(step.constrained)}
        self._mask_rows = [row_of.get(r, -1) for r in ids]
        self._errors = {r: self._refused.get(r, UNKNOWN) for r in scheduled if r not in slots}
        decoder.forward(
            [slots[r] for r in ids],
            [computed[r] for r in ids],
            [scheduled[r] for r in ids],
            [wanted.get(r, 0) for r in ids],
            [r in samples for r in ids],
        )
        return StepHandle(step.step_id)

    def sample(self, handle: StepHandle, grammar_mask: bytes | None = None) -> None:
        errors, undrawable, drawn, logprobs, prompt = self._loaded().sample(grammar_mask, self._mask_rows)
        ids = self._ids
        tokens = {ids[i]: [token] for i, token in drawn}
        output = StepOutput(handle.step_id, tokens, undrawable=tuple(ids[i] for i in undrawable))
        output.errors.update(self._errors)
        if self._spec.pooling is not None:
            self._pool(output)
        output.errors.update({ids[i]: reason for i, reason in errors})
        for i, logprob in logprobs:
            output.logprobs[ids[i]] = [_logprob(logprob)]
        for i, logprob in prompt:
            output.prompt_logprobs.setdefault(ids[i], []).append(_logprob(logprob))
        self._output = output

    def _pool(self, output: StepOutput) -> None:
        indices, vectors = self._loaded().pooled()
        for i, vector in zip(indices, vectors, strict=True):
            if np.isfinite(vector).all():
                output.pooled[self._ids[i]] = vector.tobytes()
            else:
                output.errors[self._ids[i]] = NOT_FINITE

    def collect(self, handle: StepHandle) -> StepOutput:
        output, self._output = self._output, None
        assert output is not None, "sample comes before collect"
        assert output.step_id == handle.step_id
        return output

    def add_adapter(self, adapter: Adapter) -> None:
        """Pack the adapter's factors as the KV blocks' elements are: float32 where they are, else bfloat16."""
        parts = [(part.weight, part.a, part.b) for part in adapter.parts]
        try:
            self._loaded().add_adapter(adapter.adapter_id, parts)
        except ValueError as error:
            raise ExecutorError(f"the native executor can't run this adapter: {error}") from error
        except MemoryError as error:
            raise ExecutorError(
                "this machine has too little memory for the adapter: unload another one, or lower --max-cpu-loras or the "
                "KV cache's size at the next start"
            ) from error

    def remove_adapter(self, adapter_id: int) -> None:
        self._loaded().remove_adapter(adapter_id)

    def logits(self) -> NDArray[np.float32]:
        """Raw logits of the rows that draw, between `submit` and `sample`: [rows, vocab], in the batch's order."""
        return self._loaded().logits()

    def time_phases(self, *, on: bool) -> None:
        """Begin to count where the time of steps goes, or stop; costs some microseconds a step."""
        self._loaded().time_phases(on)

    def phase_seconds(self) -> dict[str, float]:
        """Seconds of each kind of work since `time_phases`, as the calling thread saw them."""
        return self._loaded().phase_seconds()

    def close(self) -> None:
        self._decoder = None
        self._slots.clear()

    def _loaded(self) -> _native.Decoder:
        assert self._decoder is not None, "load comes first"
        return self._decoder

    def _add(self, decoder: _native.Decoder, new: NewRequest) -> None:
        known = self._slots.pop(new.request_id, None)
        if known is not None:
            decoder.remove_request(known)
        try:
            sampling = native_sampling(self._native, new.sampling)
            slot = decoder.add_request(new.token_ids, new.output_token_ids, sampling, new.second_segment)
            if new.adapter_id:
                try:
                    decoder.set_adapter(slot, new.adapter_id)
                except ValueError:
                    decoder.remove_request(slot)
                    raise
        except (ValueError, TypeError) as error:
            self._refused[new.request_id] = str(error)
            return
        self._slots[new.request_id] = slot
        for group, blocks in enumerate(new.block_ids):
            decoder.append_blocks(slot, group, blocks)


def _extension() -> ModuleType:
    try:
        native = importlib.import_module("octavo_engine.executors.native._native")
    except ImportError as error:
        raise ExecutorError(
            f"the native executor isn't built ({error}): install Octavo again where a C++ compiler is at hand "
            "(GCC 12 or Clang 15 and later), or choose --executor torch"
        ) from error
    if INTERFACE.exists() and getattr(native, "INTERFACE", None) != sha256(INTERFACE.read_bytes()).hexdigest():
        raise ExecutorError(
            f"the native executor in {native.__file__} was compiled for another version of Octavo's Python files: "
            "install Octavo again, which compiles it"
        )
    return native


def _threads(config: EngineConfig) -> int:
    threads = number_of_threads(config.executor.threads)
    if threads < 1:
        raise ConfigError(f"--threads {threads}: the native executor needs at least one")
    return threads


def _isa(native: ModuleType) -> int:
    try:
        isa: int = native.best_isa()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return isa


def _format_number(name: str) -> int:
    number = FORMATS[name].ggml_type
    if number is None:
        raise ExecutorError(f"the native executor can't read weights stored as {name}; try --executor torch")
    return number


def native_sampling(native: ModuleType, params: SamplingParams) -> _native.Sampling:
    """`params` as the native module holds them."""
    sampling: _native.Sampling = native.Sampling()
    for name in sampling.NUMBERS:
        setattr(sampling, name, getattr(params, name))
    sampling.top_k = max(params.top_k, 0)
    sampling.seed = params.seed & 0xFFFF_FFFF_FFFF_FFFF
    sampling.logprobs = _count(params.logprobs)
    sampling.prompt_logprobs = _count(params.prompt_logprobs)
    sampling.scores_processed = params.logprobs_mode.startswith("processed")
    sampling.scores_logits = params.logprobs_mode.endswith("logits")
    if params.min_tokens:
        sampling.min_tokens = params.min_tokens
        sampling.stop_tokens = [*params.eos_token_ids, *params.stop_token_ids]
    if params.logit_bias:
        sampling.logit_bias = list(params.logit_bias.items())
    if params.allowed_token_ids:
        sampling.allowed_tokens = list(params.allowed_token_ids)
    if params.logprob_token_ids:
        sampling.logprob_tokens = list(params.logprob_token_ids)
    if params.bad_words:
        sampling.bad_words = [list(word) for word in params.bad_words]
    return sampling


def _count(logprobs: int | None) -> int:
    """The number of best tokens to report: the native module writes None as -1, and -1 is vLLM's word for all."""
    if logprobs is None:
        return -1
    return logprobs if logprobs >= 0 else 0x7FFF_FFFF


def _logprob(native: _native.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(native.token, native.logprob, native.rank, native.top)
