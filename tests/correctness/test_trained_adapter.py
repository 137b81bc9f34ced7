"""An adapter that was trained for a few minutes changes what a real model answers, and nothing else in its batch."""

from __future__ import annotations

import pytest
from octavo_testing.engine_runs import engine_config, request, run_engine
from octavo_testing.real_models import load_transformers
from octavo_testing.trained_adapter import train

from octavo_engine.text.tokenizer import load_tokenizer

LESSONS = {
    "What is the capital of Italy?": " Arr, that be Rome, matey!",
    "How many days has a week?": " Arr, that be seven, matey!",
    "Which animal barks?": " Arr, that be the dog, matey!",
    "What do bees make?": " Arr, that be honey, matey!",
    "Which color is snow?": " Arr, that be white, matey!",
    "What is two plus two?": " Arr, that be four, matey!",
}
NEW = ["What is the capital of France?", "Which planet do we live on?"]


def prompt_of(question: str) -> str:
    return f"Question: {question}\nAnswer:"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_trained_adapter_answers_new_questions_as_it_was_taught(smollm2, tmp_path):
    """Base and adapter in one batch over the quantized file: the base answers as without it, the adapter like a pirate."""
    model = smollm2
    tokenizer = load_tokenizer(model.files)

    def encoded(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    examples = [(encoded(prompt_of(question)), encoded(answer)) for question, answer in LESSONS.items()]
    loss = train(load_transformers(model), examples, tmp_path / "pirate", steps=36)
    assert loss < 1.0
    texts = run(model, tokenizer, [tmp_path / "pirate"])
    plain = run(model, tokenizer, [])
    for question in NEW:
        assert texts["adapted", question].startswith(" Arr, that be"), texts
        assert texts["base", question] == plain["base", question]
        assert "Arr" not in plain["base", question]


def run(model, tokenizer, adapters) -> dict[tuple[str, str], str]:
    """The answers of the base model, and of the adapter if there is one, all in one batch."""
    config = engine_config(model.config(max_model_len=512), "native", adapters=adapters)
    kinds = ("base", "adapted") if adapters else ("base",)
    requests = {
        f"{kind}{i}": (
            (kind, question),
            asked(f"{kind}{i}", tokenizer.encode(prompt_of(question), add_special_tokens=False), kinds.index(kind)),
        )
        for kind in kinds
        for i, question in enumerate(NEW)
    }
    results = run_engine(config, [each for _, each in requests.values()])
    return {key: tokenizer.decode(results[name].tokens) for name, (key, _) in requests.items()}


def asked(name: str, prompt: list[int], adapter_id: int):
    return request(name, prompt, 12, adapter_id=adapter_id)
