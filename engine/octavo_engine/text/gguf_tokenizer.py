"""Builds a tokenizer from GGUF metadata: vocabulary, merges or scores, and the pre-tokenizer's name.

Owns the metadata's keys and llama.cpp's names for pre-tokenizers. Where GGUF has no key for something (a normalizer,
whether whole words win over merges), the result follows the original model's tokenizer.json.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from octavo_engine.errors import ModelLoadError
from octavo_engine.text.merges import read_or_derive_merges
from octavo_engine.text.pieces import SPACE
from octavo_engine.text.special_tokens import SpecialTokens, set_bos_and_eos
from octavo_engine.weights.token_ids import known_ids
from octavo_models import ModelError
from octavo_models.gguf_header import Strings

logger = logging.getLogger(__name__)

# tokenizer.ggml.token_type
CONTROL = 3
USER_DEFINED = 4

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# llama.cpp's names of pre-tokenizers (src/llama-vocab.cpp) by what they do.
_GPT2 = {"gpt-2", "default", "phi-2", "jina-es", "jina-de", "mpt", "olmo"}
_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
_SPLITS = {
    "llama-bpe": _LLAMA3_SPLIT,
    "llama3": _LLAMA3_SPLIT,
    "llama-v3": _LLAMA3_SPLIT,
    "qwen2": _QWEN2_SPLIT,
    "deepseek-r1-qwen": _QWEN2_SPLIT,
    "tekken": _TEKKEN_SPLIT,
}
_WHOLE_WORDS_FIRST = {"llama-bpe", "llama3", "llama-v3", "tekken"}
_ADD_BOS = {"llama-bpe", "llama3", "llama-v3", "tekken"}
_NFC = {"qwen2"}


def build_tokenizer(metadata: Mapping[str, Any]) -> tuple[Tokenizer, SpecialTokens]:
    """The tokenizer that a GGUF's metadata describes; raises ModelLoadError, naming the key that can't be honoured."""
    kind = metadata.get("tokenizer.ggml.model")
    build = {"gpt2": _byte_level, "llama": _sentencepiece}.get(str(kind))
    if build is None:
        raise ModelLoadError(
            f"tokenizer.ggml.model is {kind!r}; a tokenizer can be built from 'gpt2' (byte-level BPE) and 'llama' "
            "(SentencePiece): give another file or pass --tokenizer a folder with tokenizer.json"
        )
    try:
        backend, add_bos = build(metadata)
    except (ModelLoadError, ModelError):
        raise
    except Exception as error:  # the library raises bare Exception for a merge that names no token
        raise ModelLoadError(f"the GGUF's vocabulary contradicts itself: {error}") from error
    tokens = SpecialTokens.by_id(backend, _special_ids(metadata), eos_ids=_eos_ids(metadata))
    _add_tokens(backend, metadata, tokens)
    set_bos_and_eos(
        backend,
        tokens,
        add_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", add_bos)),
        add_eos=bool(metadata.get("tokenizer.ggml.add_eos_token", False)),
    )
    return backend, tokens


def chat_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates in the metadata by name; the unnamed one is `default`."""
    prefix = "tokenizer.chat_template"
    return {
        key.removeprefix(prefix).lstrip(".") or "default": value
        for key, value in metadata.items()
        if (key == prefix or key.startswith(f"{prefix}.")) and isinstance(value, str)
    }


def _vocabulary(metadata: Mapping[str, Any]) -> Sequence[str]:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not tokens:
        raise ModelLoadError("the GGUF has no tokenizer.ggml.tokens: pass --tokenizer a folder with tokenizer.json")
    return tokens.decode() if isinstance(tokens, Strings) else list(tokens)


def _byte_level(metadata: Mapping[str, Any]) -> tuple[Tokenizer, bool]:
    pre = metadata.get("tokenizer.ggml.pre")
    if pre is None:
        logger.warning(
            "the GGUF has no tokenizer.ggml.pre, which says how text is cut before it is encoded: as GPT-2 does it is "
            "a guess; if answers are poor, pass --tokenizer a folder with the model's tokenizer.json"
        )
        pre = "default"
    merges = metadata.get("tokenizer.ggml.merges")
    if merges is None:
        raise ModelLoadError("the GGUF has no tokenizer.ggml.merges, without which byte-level BPE can't encode")
    backend = Tokenizer(
        BPE(
            vocab={token: index for index, token in enumerate(_vocabulary(metadata))},
            merges=[_pair(merge) for merge in merges],
            ignore_merges=pre in _WHOLE_WORDS_FIRST,
        )
    )
    backend.pre_tokenizer = _pre_tokenizer(pre)
    backend.decoder = decoders.ByteLevel()
    if pre in _NFC:
        backend.normalizer = normalizers.NFC()
    return backend, pre in _ADD_BOS


def _pair(merge: str) -> tuple[str, str]:
    at = merge.find(" ", 1)
    return merge[:at], merge[at + 1 :]


def _pre_tokenizer(pre: str) -> pre_tokenizers.PreTokenizer:
    if pre in _GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre in _DIGITS:
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    if pre in _SPLITS:
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_SPLITS[pre]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    known = ", ".join(sorted(_GPT2 | _DIGITS | set(_SPLITS)))
    raise ModelLoadError(
        f"tokenizer.ggml.pre is {pre!r}, which says how text is cut before it is encoded and is not one of {known}: "
        "pass --tokenizer a folder with the model's tokenizer.json"
    )


def _sentencepiece(metadata: Mapping[str, Any]) -> tuple[Tokenizer, bool]:
    tokens = _vocabulary(metadata)
    gemma = str(metadata.get("general.architecture", "")).startswith("gemma")
    if gemma:
        # llama.cpp's converter wrote runs of spaces as spaces, while Gemma's pieces spell them.
        tokens = [SPACE * len(t) if t.strip(" ") == "" else t for t in tokens]
    unknown = _ids(metadata, "unknown", warn=False)
    backend = Tokenizer(
        BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=_sentencepiece_merges(metadata, tokens, by_position=gemma),
            unk_token=tokens[unknown[0]] if unknown else None,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    to_spaces = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get("tokenizer.ggml.add_space_prefix", not gemma):
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
        backend.decoder = decoders.Sequence([*to_spaces, decoders.Strip(content=" ", left=1)])
    else:
        backend.normalizer = normalizers.Replace(" ", SPACE)
        backend.decoder = decoders.Sequence(to_spaces)
    return backend, True


def _sentencepiece_merges(
    metadata: Mapping[str, Any], tokens: Sequence[str], *, by_position: bool
) -> list[tuple[str, str]]:
    merges = metadata.get("tokenizer.ggml.merges")
    if merges is not None:
        return [_pair(merge) for merge in merges]
    scores = metadata.get("tokenizer.ggml.scores")
    if scores is None:
        raise ModelLoadError("the GGUF has neither tokenizer.ggml.scores nor merges, so its pieces have no order")
    # Gemma's scores do not follow the order in which its pieces merge; their places in the vocabulary do.
    if len(scores) != len(tokens):
        raise ModelLoadError(f"tokenizer.ggml.scores has {len(scores)} entries for {len(tokens)} tokens")
    return read_or_derive_merges(tokens, None if by_position else [float(score) for score in scores])


def _special_ids(metadata: Mapping[str, Any]) -> dict[str, int]:
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    found = {role: _ids(metadata, name) for role, name in names.items()}
    return {role: ids[0] for role, ids in found.items() if ids}


def _eos_ids(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """The tokens that end a generation: the end of the sequence, and the end of a turn if the file has one."""
    warn = {"eos": False, "eot": True, "eom": True}  # the first is read above as well
    return tuple(dict.fromkeys(i for name in warn for i in _ids(metadata, name, warn=warn[name])))


def _ids(metadata: Mapping[str, Any], name: str, *, warn: bool = True) -> tuple[int, ...]:
    key = f"tokenizer.ggml.{name}_token_id"
    return known_ids(metadata.get(key), len(_vocabulary(metadata)), key, warn=warn)


def _add_tokens(backend: Tokenizer, metadata: Mapping[str, Any], named: SpecialTokens) -> None:
    types = list(metadata.get("tokenizer.ggml.token_type", ()))
    if not types:
        logger.warning(
            "the GGUF has no tokenizer.ggml.token_type: of its special tokens only the named ones are recognized; if "
            "answers are poor, pass --tokenizer a folder with the model's tokenizer.json"
        )
    raw = _vocabulary(metadata)
    if types and len(types) != len(raw):
        raise ModelLoadError(f"tokenizer.ggml.token_type has {len(types)} entries for {len(raw)} tokens")
    special = [raw[i] for i, kind in enumerate(types) if kind == CONTROL]
    special = list(dict.fromkeys([*special, *named.texts.values()]))
    backend.add_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    # Matched whole in a text, but not dropped when special tokens are; one that the vocabulary spells otherwise
    # (Gemma's runs of spaces) is reached through its merges.
    plain = [raw[i] for i, kind in enumerate(types) if kind == USER_DEFINED]
    backend.add_tokens([AddedToken(t, normalized=False) for t in plain if backend.token_to_id(t) is not None])
