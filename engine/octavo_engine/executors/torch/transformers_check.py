"""Compares a loaded model over paged blocks with itself over its own attention, before it serves.

Its outline says how it attends, and not that nothing else mixes tokens: a convolution, a shift by one token, or
positions that it counts for itself would show in an answer only. Owns the comparison; two short forwards.
"""

from __future__ import annotations

import torch
from torch import Tensor

from octavo_engine.config import ModelFiles
from octavo_engine.errors import ExecutorError
from octavo_engine.executors.torch.decoder import DecoderInputs
from octavo_engine.executors.torch.kv_cache import KVCache
from octavo_engine.executors.torch.parallel import Parallel
from octavo_engine.executors.torch.transformers_decoder import NAME, TransformersDecoder, load_model
from octavo_engine.kernels.operations import Operations, PagedBatch
from octavo_models.outline import ModelOutline
from octavo_models.spec import KVLayout

LENGTH, STRANGERS = 20, 6  # tokens of the request that is compared, and of the one beside it
FIRST = 13  # tokens of the request in the first of two steps
FURTHEST = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}  # distance of half of the rows, relative


def checked_decoder(
    outline: ModelOutline,
    files: ModelFiles,
    ops: Operations,
    layout: KVLayout,
    *,
    dtype: torch.dtype,
    kv_format: str,
    device: torch.device,
    seed: int,
    parallel: Parallel,
) -> tuple[TransformersDecoder, int]:
    """The rank's part of the model, loaded and compared, and the bytes of its weights.

    Raises:
        ModelLoadError, ExecutorError: it can't be loaded or divided, or differs.
    """
    decoder = TransformersDecoder(outline, load_model(outline, files, dtype, device, seed, parallel), ops, dtype)
    check(decoder, outline, layout, kv_format, dtype, device)
    return decoder, decoder.weight_bytes


@torch.inference_mode()
def check(
    decoder: TransformersDecoder,
    outline: ModelOutline,
    layout: KVLayout,
    kv_format: str,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Run one request in two steps beside another one, over blocks, and whole by the model's own attention.

    Raises:
        ExecutorError: they differ, so the model does more than its attention says.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, outline.vocab_size, (LENGTH,), generator=generator).to(device)
    strangers = torch.randint(0, outline.vocab_size, (STRANGERS + 1,), generator=generator).to(device)
    paged = _paged(decoder, outline, layout, kv_format, tokens, strangers)
    model = decoder.model
    try:
        decoder.divided.use_attention("eager")
        alone = decoder.divided.hidden(tokens)  # at positions of its own choice
    finally:
        decoder.divided.use_attention(NAME)
    distance = float(((paged - alone).float().norm(dim=-1) / alone.float().norm(dim=-1)).median())
    if not distance <= FURTHEST[dtype]:
        raise ExecutorError(
            f"{type(model).__name__} over paged blocks is not what transformers computes (half of the rows differ by "
            f"{distance:.2g} or more): it mixes tokens outside of attention, or does not take its positions from its "
            "caller; choose another model, or --model-impl octavo if its architecture is described"
        )


def _paged(
    decoder: TransformersDecoder,
    outline: ModelOutline,
    layout: KVLayout,
    kv_format: str,
    tokens: Tensor,
    strangers: Tensor,
) -> Tensor:
    """The request's rows: [LENGTH, hidden_size]. Block tables hold the stranger's blocks, then the request's."""
    device = tokens.device
    size = layout.block_size
    each = -(-LENGTH // size)
    cache = KVCache(outline, layout, (1 + 2 * each,) * len(layout.groups), kv_format, device)
    tables = torch.arange(1, 1 + 2 * each, dtype=torch.int32, device=device).view(2, each)

    def run(parts: list[tuple[int, int, int]]) -> Tensor:
        """parts: (request, first position, end) of each."""
        at = [torch.arange(first, end, device=device) for _, first, end in parts]
        positions = torch.cat(at)
        ids = torch.cat([(strangers, tokens)[r][p] for (r, _, _), p in zip(parts, at, strict=True)])
        slots = torch.cat(
            [tables[r][p // size].long() * size + p % size for (r, _, _), p in zip(parts, at, strict=True)]
        )
        counts = [end - first for _, first, end in parts]
        starts = torch.tensor([0, counts[0], sum(counts)], dtype=torch.int32, device=device)
        batch = PagedBatch(
            rows=torch.tensor([r for r, _, _ in parts], dtype=torch.int32, device=device),
            query_starts=starts,
            seq_lens=torch.tensor([end for _, _, end in parts], dtype=torch.int32, device=device),
            block_tables=tables,
            slots=slots,
            num_decodes=counts.count(1),
            max_query_len=max(counts),
            max_seq_len=max(end for _, _, end in parts),
        )
        return decoder.forward(DecoderInputs(ids, positions, (batch,) * len(layout.groups)), cache)[counts[0] :]

    first = run([(0, 0, STRANGERS), (1, 0, FIRST)])
    return torch.cat([first, run([(0, STRANGERS, STRANGERS + 1), (1, FIRST, LENGTH)])])
