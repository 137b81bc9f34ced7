# The native module, as src/bind_*.cpp make it. Formats are GGML type numbers, instruction sets those of matmul.h.
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

INTERFACE: str  # SHA-256 of this file as it was compiled with
ISAS: dict[str, int]  # names and numbers, from the least to the most

def best_isa() -> int: ...
def isa_available(isa: int) -> bool: ...

class Norm:
    present: bool
    weighted: bool
    kind: int  # 0: rms, 1: layer
    eps: float
    offset: float

class Rotary:
    dim: int
    interleaved: bool
    factor: float
    inverse_frequencies: list[float]

class MlpModel:
    intermediate_size: int
    activation: int  # as in ACTIVATIONS of model.py
    gated: bool
    sparse: bool
    cutoff: float  # deviations above a row's mean, where it is sparse

class RouterModel:
    num_experts: int  # 0: none
    num_chosen: int
    scoring: int  # as in SCORINGS of model.py
    renormalize: bool
    bias: bool
    correction: bool
    num_groups: int
    top_groups: int
    group_by_top2: bool
    scale: float
    jitter: float
    weighs_input: bool
    logits_multiplier: float
    expert_scales: bool

class BesideModel:
    router: Norm  # absent: the experts are not beside an MLP
    before: Norm
    after: Norm
    after_shared: Norm

class PerLayerModel:
    size: int  # 0: none
    activation: int  # as in ACTIVATIONS of model.py
    norm: Norm

class AltUpModel:
    num: int  # 0: one stream alone
    norm: Norm

class LaurelModel:
    rank: int  # 0: none
    norm: Norm

class LatentModel:
    rank: int
    rotary_dim: int
    q_rank: int  # 0: queries are a product of the layer's input
    q_norm: Norm
    kv_norm: Norm

class LayerModel:
    num_heads: int
    num_kv_heads: int
    head_dim_k: int
    head_dim_v: int
    scale: float
    causal: bool
    window: int
    chunk: int
    soft_cap: float
    qkv_clip: float
    alibi_slopes: list[float]
    qk_norm_span: int  # 0: head, 1: each_head, 2: width
    qk_norm_after_rotary: bool
    query_scaling: tuple[float, int, int]  # beta, period (0: none), offset
    output_gate: bool
    sinks: bool
    rotary: int
    kv_group: int
    kv_from: int  # the layer whose keys and values it reads; -1: it has its own
    values_from: int  # values are the elements of keys from here on; -1: they are apart
    latent: LatentModel
    router: RouterModel
    mlp: MlpModel  # of each expert, where there is a router
    shared: MlpModel  # of no size: none
    shared_gate: bool
    beside: BesideModel
    laurel: LaurelModel
    altup: AltUpModel
    per_layer: PerLayerModel
    scaled: bool
    parallel_residual: bool
    post_norms_sum: bool
    pre_attention_norm: Norm
    post_attention_norm: Norm
    pre_mlp_norm: Norm
    post_mlp_norm: Norm
    q_norm: Norm
    k_norm: Norm
    v_norm: Norm

class DenseModel:
    in_size: int
    out_size: int
    bias: bool
    activation: int  # as in DENSE_ACTIVATIONS of model.py
    norm: Norm

class PoolingModel:
    kind: int  # as in POOLINGS of model.py; 0: none
    dense: list[DenseModel]

class DecoderModel:
    vocab_size: int
    hidden_size: int
    embedding_size: int
    per_layer_count: int  # tokens; 0: none
    per_layer_norm: Norm
    num_positions: int
    position_offset: int
    num_token_types: int
    tied_head: bool
    head_bias: bool
    embedding_multiplier: float
    residual_multiplier: float
    logits_multiplier: float
    logits_soft_cap: float
    embedding_norm: Norm
    final_norm: Norm
    rotaries: list[Rotary]
    layers: list[LayerModel]
    group_windows: list[int]
    pooling: PoolingModel

class Sampling:
    NUMBERS: ClassVar[tuple[str, ...]]  # the float parameters, each an attribute of the same name
    top_k: int
    seed: int
    min_tokens: int
    logprobs: int
    prompt_logprobs: int
    stop_tokens: list[int]
    logit_bias: list[tuple[int, float]]
    allowed_tokens: list[int]
    bad_words: list[list[int]]
    logprob_tokens: list[int]
    scores_processed: bool
    scores_logits: bool

class TokenLogprob:
    @property
    def token(self) -> int: ...
    @property
    def logprob(self) -> float: ...
    @property
    def rank(self) -> int: ...
    @property
    def top(self) -> list[tuple[int, float]]: ...

class Decoder:
    def __init__(
        self,
        model: DecoderModel,
        *,
        threads: int,
        isa: int,
        kv_bf16: bool,
        block_size: int,
        max_rows: int,
        max_drawn: int,
        widen: int,
    ) -> None: ...
    def add_weight(self, name: str, number: int, rows: int, cols: int, data: NDArray[np.uint8]) -> None: ...
    def pack_layers(self, end: int) -> None: ...
    def finalize(self) -> int: ...
    def block_bytes(self, group: int) -> int: ...
    def init_kv(self, num_blocks: Sequence[int], num_host_blocks: Sequence[int]) -> None: ...
    def touch_kv(self) -> None: ...
    def copy_block(self, group: int, source: int, target: int) -> None: ...
    def swap_out(self, group: int, block: int, host_block: int) -> None: ...
    def swap_in(self, group: int, host_block: int, block: int) -> None: ...
    def add_request(
        self, prompt: Sequence[int], drawn: Sequence[int], sampling: Sampling, second_segment: int = 0
    ) -> int: ...
    def add_adapter(
        self, adapter_id: int, parts: Sequence[tuple[str, NDArray[np.float32], NDArray[np.float32]]]
    ) -> int: ...
    def remove_adapter(self, adapter_id: int) -> None: ...
    def set_adapter(self, slot: int, adapter_id: int) -> None: ...
    def remove_request(self, slot: int) -> None: ...
    def append_blocks(self, slot: int, group: int, blocks: Sequence[int]) -> None: ...
    def clear_blocks(self, slot: int) -> None: ...
    def tokens(self, slot: int) -> list[int]: ...
    @property
    def num_requests(self) -> int: ...
    def forward(
        self,
        slots: Sequence[int],
        computed: Sequence[int],
        counts: Sequence[int],
        wanted: Sequence[int],
        draws: Sequence[int],
    ) -> None: ...
    def sample(
        self, mask: bytes | None = None, mask_rows: Sequence[int] = ()
    ) -> tuple[
        list[tuple[int, str]],
        list[int],
        list[tuple[int, int]],
        list[tuple[int, TokenLogprob]],
        list[tuple[int, TokenLogprob]],
    ]: ...
    def logits(self) -> NDArray[np.float32]: ...
    def pooled(self) -> tuple[list[int], NDArray[np.float32]]: ...
    def beat_into(self, beats: memoryview) -> None: ...
    def time_phases(self, on: bool) -> None: ...
    def phase_seconds(self) -> dict[str, float]: ...
