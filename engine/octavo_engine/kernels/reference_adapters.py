"""Low-rank adapters added to a product, in plain torch: the twin of `triton.adapters`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from octavo_engine.kernels.adapter_weights import AdapterRows, AdapterWeights


def add_adapters(y: Tensor, x: Tensor, weights: AdapterWeights, rows: AdapterRows) -> None:
    """See `Operations.add_adapters`. Sums are float32; what the first product makes is rounded to x's dtype."""
    ranks, most = weights.ranks.tolist(), weights.rank
    order = rows.order.long()
    for slot, first, end in rows.tiles.T.tolist():
        rank = ranks[slot] if slot >= 0 else 0
        if not rank:
            continue
        at = order[first:end]
        low = linear(x[at].float(), weights.a[slot].float()).to(x.dtype).float()
        b = weights.b[slot, :, :rank].float()
        bs, lows = torch.split(b, list(weights.sizes)), low.view(len(low), -1, most)[:, :, :rank].unbind(1)
        added = torch.cat([linear(own, part) for own, part in zip(lows, bs, strict=True)], 1)
        if y.dtype == torch.float32:
            y.index_add_(0, at, added)
        else:
            y[at] = (y[at].float() + added).to(y.dtype)
