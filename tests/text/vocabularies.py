"""Small vocabularies as a GGUF's metadata would hold them, learnt in a moment from a few texts."""

from __future__ import annotations

from functools import cache
from typing import Any

from corpus import NUMBERS, TEXTS
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from octavo_engine.text.gguf_tokenizer import build_tokenizer
from octavo_engine.text.tokenizer import Tokenizer as OctavoTokenizer

CONTROL, USER_DEFINED, BYTE, NORMAL = 3, 4, 6, 1
EXTRA = ("12 123 2024 1999 don't won't the them then there they're", "hello hello world worlds", "über élan café")


@cache
def _byte_level_pieces() -> tuple[list[str], list[str]]:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    backend.train_from_iterator((*TEXTS, *NUMBERS, *EXTRA) * 3, trainer)
    return _pieces(backend)


@cache
def _sentencepiece_pieces() -> tuple[list[str], list[str]]:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator(
        (*TEXTS, *NUMBERS, *EXTRA) * 3, trainers.BpeTrainer(vocab_size=900, show_progress=False)
    )
    return _pieces(backend)


def _pieces(backend: Tokenizer) -> tuple[list[str], list[str]]:
    import json

    model = json.loads(backend.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return pieces, [" ".join(merge) for merge in model["merges"]]


def byte_level(pre: str = "gpt-2", **changes: Any) -> dict[str, Any]:
    """Metadata of a byte-level BPE with `<s>`, `</s>` (0 and 1) and a plain added token `<tool>`."""
    pieces, merges = _byte_level_pieces()
    tokens = ["<s>", "</s>", "<tool>", *pieces]
    types = [CONTROL, CONTROL, USER_DEFINED] + [NORMAL] * len(pieces)
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    } | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


def sentencepiece(architecture: str = "llama", **changes: Any) -> dict[str, Any]:
    """Metadata of a SentencePiece BPE as Llama 2 has it: `<unk> <s> </s>`, 256 bytes, pieces with scores."""
    pieces, _ = _sentencepiece_pieces()
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    types = [2, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(pieces)
    return {
        "general.architecture": architecture,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(rank) for rank in range(len(pieces))],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    } | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


def octavo(metadata: dict[str, Any]) -> OctavoTokenizer:
    """The tokenizer that Octavo builds."""
    return OctavoTokenizer(*build_tokenizer(metadata))
