"""The parity tests catch a wrong kernel: each mutant, one constant or comparison changed, fails the test of its kernel."""

from __future__ import annotations

import importlib
import inspect
import itertools
import shutil
import sys
from pathlib import Path

import pytest
import test_attention_kernels as attention
import test_expert_kernels as experts
import test_input_kernels as inputs
import test_matmul_kernels as matmul
import test_row_kernels as rows
import test_sampling_kernels as sampling
import torch

from octavo_engine.kernels.triton import operations
from octavo_models.layers import Norm, Rotary

F32 = torch.float32
SHAPE = matmul.SHAPES[1]
norms = (rows.test_norms_are_their_twins, F32, 24, Norm())
gelu = (rows.test_activations_are_their_twins, F32, 7, "gelu_tanh")
turns = (rows.test_turns_of_far_positions_are_their_twins, Rotary(48))
writes = (attention.test_heads_are_normed_turned_and_written_as_by_the_twin, "partial", F32, "as computed")
mixed = (attention.test_attention_of_a_mixed_batch_is_its_twins, "window", F32)
runs = (attention.test_decodes_alone_are_joined_from_their_runs, [(513, 1), (256, 1)], None)
many_runs = (attention.test_decodes_alone_are_joined_from_their_runs, [(4200, 1)], None)
draws = (sampling.test_draws_are_the_twins, 33, 1.0)
ties = (sampling.test_equals_are_drawn_as_by_the_twin, "top_k")
nucleus = (sampling.test_equals_are_drawn_as_by_the_twin, "tiny top_p")
logprobs = (sampling.test_logprobs_are_the_twins, 5, 20)
parts = (sampling.test_parts_of_a_row_are_collected_in_the_order_of_tokens,)
padding = (sampling.test_rows_of_padding_draw_nothing,)
penalties = (sampling.test_penalties_are_the_twins,)
kept_counts = (sampling.test_counts_that_are_kept_penalize_as_those_that_are_taken_afresh, 3)
bans = (sampling.test_bans_hold_where_the_output_ends_as_they_say,)
four_bits = (matmul.test_products_with_packed_weights_are_the_twins, F32, 4, 32, *SHAPE)
split_k = (matmul.test_products_with_packed_weights_are_the_twins, F32, 4, 32, *matmul.SHAPES[0])
k_format = (matmul.test_products_with_blocks_of_every_format_are_the_twins, "q4_k", F32)
eight_bits = (matmul.test_products_with_packed_weights_are_the_twins, F32, 8, 16, *SHAPE)
float8 = (matmul.test_products_in_float8_are_the_twins, F32, *SHAPE)
routes = (experts.test_routes_are_the_twins, F32)
mixtures = (experts.test_experts_are_their_twins, F32, 45, 50)
packed_experts = (experts.test_experts_of_few_bits_are_their_twins, F32, 4)
written = attention.test_heads_are_normed_turned_and_written_as_by_the_twin
joined = attention.test_sinks_slopes_and_chunks_are_joined_from_their_runs
made = (inputs.test_inputs_are_the_twins, 1, 3)

MUTANTS = [
    (norms, "norm", "/ dim + eps", "/ (dim + 1) + eps"),
    (gelu, "activation", "0.044715", "0.0448"),
    (turns, "rotary", "tl.sin(angle)", "tl.sin(angle + 1e-5)"),
    (writes, "qkv", "a * c - b * s", "a * c + b * s"),
    (writes, "qkv", "block + heads * 0 > 0", "block + heads * 0 >= 0"),
    (mixed, "attention_tile", "keys[None, :] <= query_at", "keys[None, :] < query_at"),
    (mixed, "attention_tile", "query_at[:, None] - WINDOW", "query_at[:, None] - WINDOW + 1"),
    (mixed, "attention_tile", "(keys >= first_key) & ", ""),
    (mixed, "prefill_attention", "if begin <= tile", "if begin < tile"),
    (runs, "decode_attention", "tl.minimum(begin + split, seq_len)", "tl.minimum(begin + split - 1, seq_len)"),
    (mixed, "prefill_attention", "keys + BLOCK_N, first_key", "keys, first_key"),
    (runs, "decode_attention", "keys + BLOCK_N, first_key", "keys, first_key"),
    (runs, "decode_attention", "held = (run < end)[:, None]", "held = (run < end - 1)[:, None]"),
    (many_runs, "decode_attention", "total = total * shrink + tl.sum", "total = tl.sum"),
    (draws, "sampling", "tl.interleave(a, c), tl.interleave(b, d)", "tl.interleave(a, b), tl.interleave(c, d)"),
    (ties, "selection", "remaining < equal", "remaining < 0"),
    (parts, "sampling", "tl.where(parts < part, of_parts, 0)", "tl.where(parts <= part, of_parts, 0)"),
    (parts, "sampling", "behind > (1.0 - share)", "behind > share"),
    (parts, "sampling", "tl.cumsum(counts, 0) >= k", "tl.cumsum(counts, 0) >= 1"),
    (padding, "sampling", "tl.store(drawn + row, -1)", "tl.store(drawn + row, 1)"),
    (nucleus, "sampling", "(before >= limit)", "(before > mass)"),
    (logprobs, "logprobs", "x > value", "x >= value"),
    (penalties, "logits", "tl.where(x > 0, tl.div_rn", "tl.where(x < 0, tl.div_rn"),
    (kept_counts, "logits", "tl.maximum(start, prompt_end)", "prompt_end"),
    (kept_counts, "logits", "(start == 0) | (tl.sum(new) > 0)", "start == 0"),
    (kept_counts, "logits", "if start > 0:", "if start >= 0:"),
    (bans, "logits", "+ length - end", "+ length - end - 1"),
    (four_bits, "packed_matmul", "[0, 1, 4, 5, 2, 3]", "[0, 1, 5, 4, 2, 3]"),
    (four_bits, "packed_matmul", "first + tl.arange(0, GROUPS)", "first + tl.arange(0, GROUPS) // 2 * 2"),
    (four_bits, "packed_matmul", "minimum + 8.0 * scale", "minimum + 7.0 * scale"),
    (k_format, "packed_matmul", "((group + shift) // OF_SUPER)", "(group // OF_SUPER)"),
    (k_format, "packed_matmul", "(own >> 8) & 255", "own & 255"),
    (split_k, "packed_matmul", "range(1, num_parts)", "range(1, num_parts - 1)"),
    (eight_bits, "packed_matmul", "+ 128.0)", "+ 127.0)"),
    (float8, "float8_matmul", "weight_scales + n", "weight_scales + n * 0"),
    (
        (mixed[0], "encoder with a window", F32),
        "attention_tile",
        "query_at[:, None] + WINDOW",
        "query_at[:, None] + WINDOW + 1",
    ),
    ((mixed[0], "encoder", F32), "prefill_attention", "    end = seq_len\n", "    end = seq_len - 1\n"),
    ((mixed[0], "alibi", F32), "attention_tile", "scores += slopes", "scores -= slopes"),
    ((mixed[0], "sinks", F32), "attention_tile", "tl.exp2(sink - base), acc", "0.0 * sink, acc"),
    ((mixed[0], "chunks", F32), "attention_tile", "query_at // CHUNK * CHUNK", "query_at // CHUNK * CHUNK + 1"),
    ((joined, "sinks"), "decode_attention", "heads, heads < HEADS, best", "heads, heads < 0, best"),
    ((joined, "chunks"), "decode_attention", "tl.maximum(seq_len - 1, 0) // CHUNK", "seq_len // CHUNK"),
    ((written, "olmo 2", F32, "as computed"), "head_norm", "tl.load(sums + 1) * share", "tl.load(sums) * share"),
    (
        (written, "stablelm 2", F32, "as computed"),
        "head_norm",
        "heads[:, None] * D + at[None, :]",
        "heads[:, None] + at[None, :]",
    ),
    ((written, "mpt", F32, "as computed"), "qkv", "v = clipped(v, clip, CLIP)", "v = clipped(v, clip, False)"),
    ((attention.test_sums_of_all_heads_are_their_twins, F32, 0.5), "head_sums", "squares += x * x", "squares += x"),
    ((*routes, "deepseek 3"), "routing", "of_group += tl.max", "of_group = tl.max"),
    ((*routes, "deepseek 2"), "routing", "(g != group)", "(g >= group)"),
    ((*routes, "phi"), "routing", "2.0 * jitter", "jitter"),
    ((*routes, "qwen"), "routing", "found * scale", "found"),
    ((*mixtures, "gated"), "routing", "first + own)", "first + own - 1)"),
    ((*mixtures, "gated"), "experts", "choice // ROWS_OF", "choice * 0"),
    ((*mixtures, "weighed inputs"), "experts", "gates *= share", "gates *= 1.0"),
    ((*mixtures, "with biases and a clamp"), "experts", "tl.load(gate_bias + n", "tl.load(bias + n"),
    (packed_experts, "experts", "first * BITS // 32", "first * BITS // 64"),
    (made, "inputs", "position % BLOCK_SIZE", "(position + 1) % BLOCK_SIZE"),
]
IN_BFLOAT16 = [
    ((check, *(torch.bfloat16 if each is F32 else each for each in arguments)), *change)
    for (check, *arguments), *change in MUTANTS
    if F32 in arguments and change[1] != "0.044715"  # a change of 2e-4, which bfloat16 rounds away
]
numbers = itertools.count()


def mutated(folder: Path, module: str, old: str, new: str):
    """A copy of the kernels, `old` in `module` replaced by `new`: its own module of operations."""
    package = f"mutant_{next(numbers)}"
    source = Path(inspect.getfile(operations)).parent
    shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / package).glob("*.py"):
        text = path.read_text("utf-8").replace("octavo_engine.kernels.triton.", f"{package}.")
        if path.stem == module:
            assert text.count(old) == 1, f"{module} has {old!r} {text.count(old)} times"
            text = text.replace(old, new)
        path.write_text(text, "utf-8")
    return importlib.import_module(f"{package}.operations")


LEFT_TO_TEST_ALL = [pytest.param(*mutant, marks=pytest.mark.slow) for mutant in (*MUTANTS[4:], *IN_BFLOAT16)]


@pytest.mark.parametrize(("test", "module", "old", "new"), [*MUTANTS[:4], *LEFT_TO_TEST_ALL])
def test_a_wrong_kernel_fails_its_parity_test(device, tmp_path, monkeypatch, test, module, old, new):
    check, *arguments = test
    monkeypatch.syspath_prepend(tmp_path)
    wrong = mutated(tmp_path, module, old, new).TritonOperations.on(device)
    if module == "float8_matmul" and wrong.launch.gpu.capability < 89:
        pytest.skip("this GPU has no float8")
    with pytest.raises(AssertionError):
        check(wrong, device, *arguments)
    for name in [name for name in sys.modules if name.startswith("mutant_")]:
        del sys.modules[name]
