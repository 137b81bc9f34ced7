"""The torch executor: the contract of `executors.executor` over torch tensors, on any device torch has.

Over the plain operations of `kernels.reference` it runs slowly anywhere; it is the twin that the native executor
is compared with. Synchronous: `submit` has run the forward when it returns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from octavo_engine.config import EngineConfig, ModelFiles
from octavo_engine.core.outputs import SchedulerOutput, StepOutput
from octavo_engine.errors import DeviceLostError
from octavo_engine.executors.executor import Capabilities, Capacity, Executor, StepHandle
from octavo_engine.executors.torch.decoder import Decoder, refuse_unsupported
from octavo_engine.executors.torch.input_batch import InputBatch, RequestStates
from octavo_engine.executors.torch.kv_cache import KVCache
from octavo_engine.executors.torch.sampler import sample_step
from octavo_engine.executors.torch.weights import WeightReader
from octavo_engine.weights.load import open_checkpoint
from octavo_models.spec import ModelSpec

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class TorchExecutor(Executor):
    """One model on one device."""

    def __init__(
        self, config: EngineConfig, spec: ModelSpec, files: ModelFiles, device: torch.device | None = None
    ) -> None:
        refuse_unsupported(spec)
        self.config = config
        self.spec = spec
        self.files = files
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Weights of a quantized file are widened: `spec.dtype` is float32 there.
        self.dtype = DTYPES[spec.dtype if config.model.dtype == "auto" else config.model.dtype]
        widened = config.model.dtype == "auto" and spec.quantization is not None
        self.kv_format = "f32" if self.dtype == torch.float32 and not widened else "bf16"
        self.layout = spec.kv_layout(config.cache.block_size, self.kv_format)
        self.states = RequestStates(spec.vocab_size, config.cache.block_size, self.device)
        self._decoder: Decoder | None = None
        self._cache: KVCache | None = None
        self._step: tuple[SchedulerOutput, InputBatch, Tensor] | None = None
        self._output: StepOutput | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(name=f"torch {torch.__version__} on {self.device.type}")

    def load(self) -> Capacity:
        checkpoint = open_checkpoint(self.spec, self.files)
        try:
            reader = WeightReader(self.spec, checkpoint, self.dtype, self.device)
            self._decoder = Decoder(self.spec, reader)
        finally:
            checkpoint.close()
        kv_bytes = None
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            kv_bytes = max(0, int(free - total * (1 - self.config.cache.gpu_memory_utilization)))
        return Capacity(self.layout, self.spec.weight_bytes(str(self.dtype).removeprefix("torch.")), kv_bytes)

    def init_kv(self, num_blocks: tuple[int, ...]) -> None:
        self._cache = KVCache(self.spec, self.layout, num_blocks, self.kv_format, self.device)

    @torch.inference_mode()
    def submit(self, step: SchedulerOutput) -> StepHandle:
        assert self._cache is not None, "init_kv comes before submit"
        assert self._step is None, "collect comes before the next submit"
        self.states.apply(step)
        self._cache.apply(step.kv_ops)
        batch = self.states.batch(step)
        try:
            hidden = self._forward(batch)
        except RuntimeError as error:
            self._fail_alone(step, batch, error)
            batch = self.states.batch(step)
            hidden = self._forward(batch)
        self._step = step, batch, hidden
        return StepHandle(step.step_id)

    @torch.inference_mode()
    def sample(self, handle: StepHandle, grammar_mask: bytes | None = None) -> None:
        assert grammar_mask is None, "this executor takes no grammar masks"
        assert self._step is not None
        assert self._step[0].step_id == handle.step_id
        assert self._decoder is not None
        step, batch, hidden = self._step
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

    def _forward(self, batch: InputBatch) -> Tensor:
        assert self._decoder is not None, "load comes before submit"
        assert self._cache is not None
        if not batch.request_ids:
            return torch.empty(0, self.spec.hidden_size, dtype=self.dtype, device=self.device)
        return self._decoder.forward(batch, self._cache)

    def _fail_alone(self, step: SchedulerOutput, batch: InputBatch, error: RuntimeError) -> None:
        """Run the batch's requests one by one and mark those that raise; writing their KV twice is harmless.

        Raises:
            DeviceLostError: the device's context is gone.
        """
        self._raise_if_lost(error)
        for request_id in batch.request_ids:
            others = [r for r in batch.request_ids if r != request_id]
            try:
                self._forward(self.states.batch(step, without=frozenset(others)))
            except RuntimeError as own:
                self._raise_if_lost(own)
                self.states.states[request_id].error = f"the forward failed: {own}"

    @staticmethod
    def _raise_if_lost(error: RuntimeError) -> None:
        if isinstance(error, torch.AcceleratorError):
            raise DeviceLostError(f"the device's context is corrupt: {error}") from error
