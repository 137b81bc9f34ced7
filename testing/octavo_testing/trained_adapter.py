"""Trains a small low-rank adapter with torch, for tests that see what an adapter does rather than what shape it has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from octavo_testing.adapters import write_adapter

ALPHA_BY_RANK = 2.0


def train(
    model: Any,
    examples: Sequence[tuple[list[int], list[int]]],
    folder: Path,
    *,
    targets: Sequence[str] = ("q_proj", "v_proj", "up_proj", "down_proj"),
    rank: int = 8,
    steps: int = 40,
    learning_rate: float = 2e-3,
) -> float:
    """Train an adapter of transformers' `model` to continue each prompt with its answer, and write it as PEFT does.

    `examples` are token ids of prompts and answers. Returns the last mean loss of a token. In one thread: several wait for
    each other where other programs have the cores.
    """
    torch.set_num_threads(1)
    torch.manual_seed(3)
    model.requires_grad_(requires_grad=False)
    factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith(tuple(targets)):
            a = (torch.randn(rank, module.in_features) / module.in_features**0.5).requires_grad_()
            b = torch.zeros(module.out_features, rank, requires_grad=True)
            factors[name] = a, b

            def add(_module: Any, inputs: Any, output: Any, a: Any = a, b: Any = b) -> Any:
                return output + ALPHA_BY_RANK * (inputs[0] @ a.T) @ b.T

            hooks.append(module.register_forward_hook(add))
    optimizer = torch.optim.AdamW([each for pair in factors.values() for each in pair], lr=learning_rate)
    loss = torch.tensor(0.0)
    for step in range(steps):
        prompt, answer = examples[step % len(examples)]
        tokens = torch.tensor([prompt + answer])
        labels = tokens.clone()
        labels[0, : len(prompt)] = -100
        loss = model(tokens, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for hook in hooks:
        hook.remove()
    pairs = {name: (a.detach().numpy(), b.detach().numpy()) for name, (a, b) in factors.items()}
    write_adapter(folder, pairs, lora_alpha=ALPHA_BY_RANK * rank, target_modules=list(targets))
    return float(loss.detach())
