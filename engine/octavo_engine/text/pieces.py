"""The bytes of each piece of the vocabulary, according to the tokenizer's decoder.

Two spellings exist among decoders of text: GPT-2's byte alphabet, where every character of a piece is one byte, and
SentencePiece's, where a piece is text with `▁` for a space and `<0x0A>` for a single byte. BERT's WordPiece, of models
that write no text, marks with `##` what continues a word.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from octavo_engine.errors import ModelLoadError

SPACE = "▁"


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes (openai/gpt-2, encoder.py): printable bytes map to themselves, others to characters above 255."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


BYTE_OF_CHARACTER = _byte_alphabet()


def byte_level_bytes(piece: str) -> bytes:
    """Bytes of a byte-level piece; an added token that is not written in the alphabet is plain text."""
    try:
        return bytes([BYTE_OF_CHARACTER[character] for character in piece])
    except KeyError:
        return piece.encode()


def text_bytes(piece: str) -> bytes:
    """Bytes of a SentencePiece piece of a vocabulary without byte pieces."""
    return piece.replace(SPACE, " ").encode()


def sentencepiece_bytes(piece: str) -> bytes:
    """Bytes of a SentencePiece piece; `<0xHH>` is one byte."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        try:
            return bytes([int(piece[3:5], 16)])
        except ValueError:
            pass
    return piece.replace(SPACE, " ").encode()


def wordpiece_bytes(piece: str) -> bytes:
    """Bytes of a WordPiece piece: a word begins with a space, unless it goes on."""
    return (piece.removeprefix("##") if piece.startswith("##") else f" {piece}").encode()


@dataclass(frozen=True, slots=True)
class Spelling:
    """The mapping from pieces to bytes; `strips_space`: the tokenizer added the text's first space, which is dropped."""

    to_bytes: Callable[[str], bytes]
    strips_space: bool


def spelling_of(decoder: Any) -> Spelling:
    """The spelling that a `tokenizers` decoder undoes. Raises ModelLoadError for one that is not of these kinds."""
    if decoder is None:
        raise ModelLoadError("the tokenizer has no decoder, so its tokens can't be turned into text")
    state = json.loads(decoder.__getstate__())
    steps = state["decoders"] if state["type"] == "Sequence" else [state]
    kinds = {step["type"] for step in steps}
    if kinds == {"ByteLevel"}:
        return Spelling(byte_level_bytes, strips_space=False)
    if kinds == {"WordPiece"}:
        return Spelling(wordpiece_bytes, strips_space=True)
    if kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        metaspace = any(step["type"] == "Metaspace" and step.get("prepend_scheme") != "never" for step in steps)
        strip = any(step["type"] == "Strip" and step.get("start", 0) > 0 for step in steps)
        to_bytes = sentencepiece_bytes if "ByteFallback" in kinds else text_bytes
        return Spelling(to_bytes, strips_space=metaspace or strip)
    raise ModelLoadError(
        f"the tokenizer's decoder {', '.join(sorted(kinds))} is not one that text can be streamed from; "
        "byte-level BPE and SentencePiece are"
    )
