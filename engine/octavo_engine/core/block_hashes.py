"""Names of block contents: a chain of digests over raw token bytes.

A block's digest covers every token before it, the tenant's salt and the adapter, so equal digests mean equal KV.
Digests are blake2b, never Python's `hash()`: untrusted clients fill the cache and must not be able to construct collisions.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence as TokenIds
from hashlib import blake2b

DIGEST_BYTES = 16


def chain_root(cache_salt: str, adapter_id: int) -> bytes:
    """The root that the first block's digest is chained to. The salt's length comes first, so that no salt imitates another."""
    salt = cache_salt.encode()
    return blake2b(
        len(salt).to_bytes(8, "little") + salt + adapter_id.to_bytes(8, "little"), digest_size=DIGEST_BYTES
    ).digest()


def extend_chain(digests: list[bytes], root: bytes, token_ids: TokenIds[int], num_blocks: int, block_size: int) -> None:
    """Append digests until there is one for each of the first `num_blocks` blocks of `token_ids`, all of them full."""
    first = len(digests)
    if num_blocks <= first:
        return
    raw = array("I", token_ids[first * block_size : num_blocks * block_size])
    if sys.byteorder == "big":
        raw.byteswap()
    data = raw.tobytes()
    stride = block_size * raw.itemsize
    parent = digests[-1] if digests else root
    for offset in range(0, len(data), stride):
        parent = blake2b(parent + data[offset : offset + stride], digest_size=DIGEST_BYTES).digest()
        digests.append(parent)
