"""Tokenizers of real models, and what transformers makes of the same files."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers

from octavo_engine.text.tokenizer import load_tokenizer


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2):
    return load_tokenizer(smollm2.files)


@pytest.fixture(scope="session")
def gemma3_tokenizer(gemma3):
    return load_tokenizer(gemma3.files)


def saved_by_transformers(model) -> Path:
    """The folder that transformers saves the GGUF's tokenizer to; kept, since reading Gemma's takes it 15 s."""
    import warnings

    from octavo_testing.real_models import kept

    def write(folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # another project's
            from transformers import AutoTokenizer

            AutoTokenizer.from_pretrained(model.gguf.parent, gguf_file=model.gguf.name).save_pretrained(folder)

    return kept(f"{model.name}-tokenizer", model.key, write)


@pytest.fixture(scope="session")
def smollm2_saved(smollm2) -> Path:
    return saved_by_transformers(smollm2)


@pytest.fixture(scope="session")
def gemma3_saved(gemma3) -> Path:
    return saved_by_transformers(gemma3)


@pytest.fixture(scope="session")
def smollm2_reference(smollm2_saved) -> tokenizers.Tokenizer:
    """AutoTokenizer.from_pretrained(folder, gguf_file=…) of transformers, its backend."""
    return tokenizers.Tokenizer.from_file(str(smollm2_saved / "tokenizer.json"))


@pytest.fixture(scope="session")
def gemma3_reference(gemma3_saved) -> tokenizers.Tokenizer:
    """AutoTokenizer.from_pretrained(folder, gguf_file=…) of transformers, its backend."""
    return tokenizers.Tokenizer.from_file(str(gemma3_saved / "tokenizer.json"))
