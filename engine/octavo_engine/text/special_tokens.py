"""A tokenizer's special tokens by role, and the BOS and EOS that it adds around a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from octavo_engine.errors import ModelLoadError


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """`texts`: role (`bos_token`, `eos_token`, `unk_token`, `pad_token` …) to token; `eos_ids`: all that end a text."""

    texts: Mapping[str, str]
    ids: Mapping[str, int]
    eos_ids: tuple[int, ...]

    @classmethod
    def by_id(cls, backend: Tokenizer, ids: Mapping[str, int], *, eos_ids: tuple[int, ...]) -> SpecialTokens:
        """Raises ModelLoadError for an id that the vocabulary lacks."""
        texts = {}
        for role, index in ids.items():
            text = backend.id_to_token(index)
            if text is None:
                raise ModelLoadError(f"the {role} has id {index}, but the vocabulary has no such token")
            texts[role] = text
        return cls(texts, dict(ids), eos_ids)

    @classmethod
    def by_text(cls, backend: Tokenizer, texts: Mapping[str, str]) -> SpecialTokens:
        """Tokens that the vocabulary lacks keep their text, for chat templates, and have no id."""
        found = {role: backend.token_to_id(text) for role, text in texts.items()}
        ids = {role: index for role, index in found.items() if index is not None}
        eos = ids.get("eos_token")
        return cls(dict(texts), ids, () if eos is None else (eos,))


def set_bos_and_eos(backend: Tokenizer, tokens: SpecialTokens, *, add_bos: bool, add_eos: bool) -> None:
    """Make `backend.encode` add BOS before and EOS after each text, as far as requested and defined by the model."""
    before = [tokens.texts["bos_token"]] if add_bos and "bos_token" in tokens.ids else []
    after = [tokens.texts["eos_token"]] if add_eos and "eos_token" in tokens.ids else []
    backend.post_processor = TemplateProcessing(
        single=[*before, "$A", *after],
        special_tokens=[(text, backend.token_to_id(text)) for text in dict.fromkeys(before + after)],
    )
