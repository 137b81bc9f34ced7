"""An answer ends at every token that the model's files name for it, as in vLLM."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from octavo_engine.config import EngineConfig, ModelConfig
from octavo_engine.server.context import ServerContext
from octavo_engine.weights.generation_config import GenerationDefaults


def context(tokenizer: tuple[int, ...], files: tuple[int, ...]) -> ServerContext:
    return ServerContext(
        config=EngineConfig(model=ModelConfig(model="m", served_model_names=("m",))),
        client=None,
        tokenizer=SimpleNamespace(eos_token_ids=tokenizer, vocab_size=12),
        chat_template=None,
        turn_ends=(),
        defaults=GenerationDefaults(eos_token_ids=files),
        ready=SimpleNamespace(vocab_size=10, max_model_len=64, executor="none"),
        metrics=None,
    )


@pytest.mark.parametrize(
    ("tokenizer", "files", "ends"),
    [
        ((2,), (7, 3), (2, 7, 3)),
        ((2,), (), (2,)),
        ((), (7,), (7,)),
        ((2, 7), (7, 2), (2, 7)),
        ((11,), (2, 10), (2,)),  # a token that was added to the tokenizer has no logit, and can't be drawn
    ],
)
def test_the_end_tokens_of_tokenizer_config_and_generation_config_are_united(tokenizer, files, ends):
    assert context(tokenizer, files).eos_token_ids == ends
