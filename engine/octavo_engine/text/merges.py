"""The merges that a SentencePiece vocabulary implies, derived once and kept on disk.

A BPE model of the `tokenizers` library needs a list of merges; GGUF has only pieces and scores. Every way to cut a
piece into two pieces of the vocabulary is a merge, and the better piece merges first. For Gemma's 262144 pieces that
is half a million merges and most of a second, so they are cached as pairs of token ids.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from array import array
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from octavo_engine.weights.cache import cache_folder

MAGIC = b"octavo-merges-1\n"
CACHE_FROM = 65536  # pieces; a smaller vocabulary is derived faster than a file is worth


def read_or_derive_merges(tokens: Sequence[str], scores: Sequence[float] | None) -> list[tuple[str, str]]:
    """The merges of `tokens`, best first: by score, or by place in the vocabulary where `scores` is None."""
    if len(tokens) < CACHE_FROM:
        return [(tokens[left], tokens[right]) for left, right in _derive(tokens, scores)]
    path = cache_folder() / "merges" / f"{_digest(tokens, scores)}.bin"
    flat = _read(path, len(tokens))
    if flat is None:
        flat = array("I", [index for pair in _derive(tokens, scores) for index in pair])
        _write(path, flat)
    return [(tokens[left], tokens[right]) for left, right in zip(flat[::2], flat[1::2], strict=True)]


def _derive(tokens: Sequence[str], scores: Sequence[float] | None) -> list[tuple[int, int]]:
    """Pairs of ids, in the order in which transformers lists them (`generate_merges`), so that ties fall alike."""
    ids = {token: index for index, token in enumerate(tokens)}
    found: list[tuple[float, int, int, int, int, int]] = []
    for index, token in enumerate(tokens):
        length = len(token)
        rank = index if scores is None else -scores[index]
        for cut in range(length - 1, 0, -1):
            left = ids.get(token[:cut])
            if left is not None:
                right = ids.get(token[cut:])
                if right is not None:
                    found.append((rank, -cut, cut - length, index, left, right))
    if scores is not None:  # by place, they already are in order
        found.sort()
    return [(left, right) for *_, left, right in found]


def _digest(tokens: Sequence[str], scores: Sequence[float] | None) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update("\0".join(tokens).encode("utf-8", "surrogatepass"))
    if scores is not None:
        digest.update(array("d", scores).tobytes())
    return digest.hexdigest()


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _read(path: Path, vocabulary: int) -> array[int] | None:
    """The cached pairs, or None where there are none that can be trusted."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    head, data = content[: len(MAGIC) + 16], content[len(MAGIC) + 16 :]
    if head != MAGIC + _checksum(data) or len(data) % 8:
        return None
    flat = array("I")
    flat.frombytes(data)
    if sys.byteorder == "big":
        flat.byteswap()
    return flat if not flat or max(flat) < vocabulary else None


def _write(path: Path, flat: array[int]) -> None:
    """Complete or not at all; a cache that can't be written costs time and nothing else."""
    data = array("I", flat)
    if sys.byteorder == "big":
        data.byteswap()
    content = data.tobytes()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
            try:
                file.write(MAGIC + _checksum(content) + content)
                file.close()
                Path(file.name).replace(path)
            except OSError:
                Path(file.name).unlink(missing_ok=True)
                raise
