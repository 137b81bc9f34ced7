"""The torch executor: the contract of `executors.executor` over torch tensors, on any device torch has.

Over the plain operations of `kernels.reference` it runs slowly anywhere; it is the twin that the native executor
is compared with. Synchronous: `submit` has run the forward when it returns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from octavo_engine.config import EngineConfig, ModelFiles
from octavo_engine.core.outputs import SchedulerOutput, StepOutput
from octavo_engine.errors import DeviceLostError
from octavo_engine.executors.executor import Capabilities, Capacity, Executor, StepHandle
from octavo_engine.executors.torch.decoder import Decoder, refuse_unsupported
from octavo_engine.executors.torch.input_batch import InputBatch, RequestStates
from octavo_engine.executors.torch.kv_cache import KVCache
from octavo_engine.executors.torch.parallel import ALONE, Parallel
from octavo_engine.executors.torch.sampler import sample_step
from octavo_engine.executors.torch.weights import read_weights
from octavo_models.partition import kv_layout, part
from octavo_models.spec import ModelSpec

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class TorchExecutor(Executor):
    """One model on one device."""

    def __init__(
        self,
        config: EngineConfig,
        spec: ModelSpec,
        files: ModelFiles,
        device: torch.device | None = None,
        parallel: Parallel = ALONE,
    ) -> None:
        refuse_unsupported(spec)
        self.config = config
        self.whole = spec
        self.parallel = parallel
        self.spec = part(spec, parallel.place)  # what this rank runs of it
        self.files = files
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Weights of a quantized file are widened: `spec.dtype` is float32 there.
        self.dtype = DTYPES[spec.dtype if config.model.dtype == "auto" else config.model.dtype]
        widened = config.model.dtype == "auto" and spec.quantization is not None
        self.kv_format = "f32" if self.dtype == torch.float32 and not widened else "bf16"
        self.layout = kv_layout(spec, parallel.place, config.cache.block_size, self.kv_format)
        self.states = RequestStates(spec.vocab_size, self.layout.block_size, len(self.layout.groups), self.device)
        self._decoder: Decoder | None = None
        self._cache: KVCache | None = None
        self._step: tuple[SchedulerOutput, InputBatch, Tensor] | None = None
        self._output: StepOutput | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(name=f"torch {torch.__version__} on {self.device.type}")

    def load(self) -> Capacity:
        if self.device.type == "cpu" and self.config.executor.threads is not None:
            torch.set_num_threads(self.config.executor.threads)
        weights = read_weights(
            self.whole, self.files, self.dtype, self.device, self.config.model.seed, self.parallel.place
        )
        self._decoder = Decoder(self.spec, weights, self.parallel)
        kv_bytes = None
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            kv_bytes = max(0, int(free - total * (1 - self.config.cache.gpu_memory_utilization)))
        return Capacity(self.layout, self.spec.weight_bytes(str(self.dtype).removeprefix("torch.")), kv_bytes)

    def init_kv(self, num_blocks: tuple[int, ...]) -> None:
        self._cache = KVCache(self.spec, self.layout, num_blocks, self.kv_format, self.device)

    @torch.inference_mode()
    def submit(self, step: SchedulerOutput) -> StepHandle:
        assert self._decoder is not None, "load comes before submit"
        assert self._cache is not None, "init_kv comes before submit"
        self.states.apply(step)
        self._cache.apply(step.kv_ops)
        batch = self.states.batch(step)
        with self._watching_device():
            hidden = self._decoder.forward(batch, self._cache)
        self._step = step, batch, hidden
        return StepHandle(step.step_id)

    @torch.inference_mode()
    def sample(self, handle: StepHandle, grammar_mask: bytes | None = None) -> None:
        assert grammar_mask is None, "this executor takes no grammar masks"
        assert self._step is not None, "submit comes before sample"
        assert self._decoder is not None
        step, batch, hidden = self._step
        assert step.step_id == handle.step_id
        with self._watching_device():
            self._output = sample_step(step, batch, hidden, self.states, self._decoder.logits)

    def collect(self, handle: StepHandle) -> StepOutput:
        output = self._output
        assert output is not None, "sample comes before collect"
        assert output.step_id == handle.step_id
        self._step = self._output = None
        return output

    def close(self) -> None:
        self._decoder = self._cache = self._step = self._output = None
        self.states.states.clear()

    @staticmethod
    @contextmanager
    def _watching_device() -> Iterator[None]:
        """A CUDA error leaves the context unusable; running out of memory is no such error."""
        try:
            yield
        except torch.AcceleratorError as error:
            raise DeviceLostError(f"the device's context is corrupt: {error}") from error
