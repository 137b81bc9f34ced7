"""Formats in which models of code fill in a text between two others, recognized by the special tokens of their vocabularies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

MARK = "☺"  # stands before a text that gets no leading space; its own tokens are removed


@dataclass(frozen=True, slots=True)
class FillInMiddle:
    """One format: the tokens before the text that precedes, the one that follows, and the one to be written.

    `ends` are tokens that end what is written, besides the model's own, where the vocabulary has them.
    """

    name: str
    prefix: str
    suffix: str
    middle: str
    suffix_first: bool = False  # then an empty `middle` has the text to be written follow the prefix
    bare_suffix: bool = False  # a SentencePiece vocabulary would put a space before the suffix
    ends: tuple[str, ...] = ()

    @property
    def markers(self) -> tuple[str, ...]:
        return tuple(token for token in (self.prefix, self.suffix, self.middle) if token)


FORMATS = (
    # Qwen2.5-Coder's README, "File-Level Code Completion"; CodeGemma's README has the same tokens and other ends.
    FillInMiddle(
        "qwen and codegemma",
        *("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        ends=(
            *("<|endoftext|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|im_end|>", "<|file_separator|>"),
            *("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        ),
    ),
    # StarCoder's README, "Fill-in-the-middle"; StarCoder2, StableCode and Granite's models of code are trained alike.
    FillInMiddle(
        "starcoder",
        *("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        ends=("<|endoftext|>", "<file_sep>", "<fim_pad>", "<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ),
    # DeepSeek-Coder's README, "Code Insertion".
    FillInMiddle(
        "deepseek", *("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"), ends=("<|EOT|>", "<｜end▁of▁sentence｜>")
    ),
    # Code Llama's `infilling_prompt_tokens`: https://github.com/meta-llama/codellama
    FillInMiddle("codellama", *("▁<PRE>", "▁<SUF>", "▁<MID>"), bare_suffix=True, ends=("▁<EOT>",)),
    # Seed-Coder's README, "Fill-in-the-Middle".
    FillInMiddle("seed-coder", *("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"), suffix_first=True),
    # Codestral, as mistral-common's `encode_fim` writes it.
    FillInMiddle("codestral", "[PREFIX]", "[SUFFIX]", "", suffix_first=True, bare_suffix=True),
)


def find_format(token_id: Callable[[str], int | None]) -> FillInMiddle | None:
    """The first format all of whose markers are tokens, by `token_id`; None if the model has none."""
    return next((f for f in FORMATS if all(token_id(marker) is not None for marker in f.markers)), None)


def filled(
    chosen: FillInMiddle, begin: Sequence[int], prefix: Sequence[int], suffix: Sequence[int], ids: Callable[[str], int]
) -> list[int]:
    """The prompt whose answer stands between `prefix` and `suffix`. `begin` is what the tokenizer puts before a text."""
    before, after = [ids(chosen.prefix), *prefix], [ids(chosen.suffix), *suffix]
    parts = [*after, *before] if chosen.suffix_first else [*before, *after]
    return [*begin, *parts, *([ids(chosen.middle)] if chosen.middle else [])]
