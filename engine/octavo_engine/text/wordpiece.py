"""BERT's tokenizer out of its vocab.txt, for models that bring no tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from octavo_engine.errors import ModelLoadError
from octavo_engine.text.special_tokens import SpecialTokens

SPECIAL = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def build_tokenizer(vocabulary: Sequence[str], config: Mapping[str, Any]) -> tuple[tokenizers.Tokenizer, SpecialTokens]:
    """The tokenizer whose piece i is line i of `vocabulary`; `config` is a tokenizer_config.json.

    Raises:
        ModelLoadError: a special token is missing in the vocabulary.
    """
    texts = {role: _stated(config.get(role)) or token for role, token in SPECIAL.items()}
    if texts["mask_token"] not in vocabulary:
        del texts["mask_token"]
    ids = {piece: index for index, piece in enumerate(vocabulary)}
    for role, token in texts.items():
        if token not in ids:
            raise ModelLoadError(f"the vocabulary has no {token}, the {role}")
    backend = tokenizers.Tokenizer(models.WordPiece(vocab=ids, unk_token=texts["unk_token"]))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=config.get("do_lower_case", True) is not False,
        handle_chinese_chars=config.get("tokenize_chinese_chars", True) is not False,
        strip_accents=config.get("strip_accents"),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    first, last = texts["cls_token"], texts["sep_token"]
    backend.post_processor = TemplateProcessing(
        single=f"{first}:0 $A:0 {last}:0",
        pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1",
        special_tokens=[(token, ids[token]) for token in (first, last)],
    )
    backend.decoder = decoders.WordPiece()
    backend.add_tokens([AddedToken(token, normalized=False, special=True) for token in texts.values()])
    return backend, SpecialTokens.by_text(backend, texts)


def _stated(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
