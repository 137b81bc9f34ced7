"""A request's tokens depend on nothing but the request: docs/decisions/0005, on each instruction set.

Its tokens and log-probabilities are equal to the last bit whether it is computed alone or beside others, in one chunk
or in pieces, after a prefix that another request has left, again after a preemption, or by another number of threads.
AMX tiles are left out: they take over from 16 rows on (32 with quantized weights) and add in another order.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import matmul_twin as twin
import numpy as np
import pytest
from instruction_sets import AMX, every_isa
from tiny_specs import LATENT, MLP, attention, draft, mixture

from octavo_engine.config import EngineConfig, ExecutorConfig, ModelConfig, ModelFiles, SchedulerConfig
from octavo_engine.core.outputs import ContinuedRequest, NewRequest, SchedulerOutput
from octavo_engine.executors.native import _native
from octavo_engine.executors.native import executor as native_executor
from octavo_engine.executors.native.executor import NativeExecutor
from octavo_engine.messages import TokenLogprob
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.weights.load import LoadedWeight, load_weights
from octavo_models import from_hf_config
from octavo_models.layers import Latent

CONFIG = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "vocab_size": 263,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 300,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
    "max_position_embeddings": 1024,
    "dtype": "bfloat16",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
PROMPT = np.random.default_rng(1).integers(0, 263, 610).tolist()
SAMPLING = SamplingParams(max_tokens=64, temperature=1.0, top_p=0.95, seed=77, logprobs=3)
STRANGER = SamplingParams(max_tokens=64, temperature=0.7, seed=5)
DRAWS = 6
# Stored format of the matrices, what --dtype widens them to, and the size of their scales that makes sane activations.
FORMATS = {
    "f32": ("f32", "auto", 0.06),
    "f16": ("f16", "auto", 0.06),
    "bf16": ("bf16", "auto", 0.06),
    "q4_1": ("q4_1", "auto", 0.02),
    "q4_k": ("q4_k", "auto", 3e-4),
    "q6_k": ("q6_k", "auto", 1e-4),
    "q4_1 widened to bf16": ("q4_1", "bfloat16", 0.02),
}
SOME_FORMATS = [name if name in {"bf16", "q4_k"} else pytest.param(name, marks=pytest.mark.slow) for name in FORMATS]


def weights_of(name: str, scale: float):
    """`load_weights` with every matrix of made-up rows in the format `name`."""

    def load(spec, checkpoint):
        rng = np.random.default_rng(3)
        for weight, stored in load_weights(spec, checkpoint):
            if len(weight.shape) > 1:
                yield weight, LoadedWeight(name, weight.shape, twin.random_rows(name, *weight.shape, rng, scale))
            else:
                yield weight, stored

    return load


@dataclass
class Engine:
    executor: NativeExecutor
    steps: int = 0
    x: list[TokenLogprob] = field(default_factory=list)

    def step(self, counts, new=(), continued=(), draws=(), finished=()) -> None:
        self.steps += 1
        wanted = dict.fromkeys(draws, 1)
        scheduled = SchedulerOutput(
            self.steps, tuple(new), tuple(continued), counts, wanted, frozenset(draws), finished_ids=tuple(finished)
        )
        handle = self.executor.submit(scheduled)
        self.executor.sample(handle)
        out = self.executor.collect(handle)
        assert not out.errors, out.errors
        self.x += out.logprobs.get("x", [])

    def new(self, name, tokens, first_block, computed=0, sampling=SAMPLING, output=()) -> NewRequest:
        blocks = list(range(first_block, first_block + 42))
        return NewRequest(name, tokens, sampling, (blocks,) * 2, computed, output_token_ids=list(output))

    def prefill(self, chunks, first_block=1, computed=0, beside=None, name="x") -> None:
        """The prompt in `chunks`, each beside one token of every request in `beside`."""
        crowd = dict(beside or {})
        for i, count in enumerate(chunks):
            others = [ContinuedRequest(s, ((), ()), n + i) for s, n in crowd.items()]
            new = [self.new(name, PROMPT, first_block, computed)] if i == 0 else []
            more = [] if i == 0 else [ContinuedRequest(name, ((), ()), computed)]
            computed += count
            draws = [*crowd, *([name] if computed == len(PROMPT) else [])]
            self.step({name: count, **dict.fromkeys(crowd, 1)}, new, more + others, draws)
        assert computed == len(PROMPT)

    def decode(self, count, beside=None) -> None:
        crowd = dict(beside or {})
        for _ in range(count):
            others = [ContinuedRequest(s, ((), ()), n + len(self.x)) for s, n in crowd.items()]
            one = ContinuedRequest("x", ((), ()), len(PROMPT) + len(self.x) - 1)
            counts = dict.fromkeys(("x", *crowd), 1)
            self.step(counts, (), [one, *others], counts)


def alone(engine: Engine) -> None:
    engine.prefill([610])
    engine.decode(DRAWS - 1)


def in_pieces(engine: Engine) -> None:
    engine.prefill([13, 1, 301, 255, 40])
    engine.decode(DRAWS - 1)


def in_a_crowd(engine: Engine) -> None:
    """Beside 40 others: as many rows as every kernel for many rows asks for."""
    lengths = {f"s{i}": 3 + i for i in range(40)}
    news = [
        NewRequest(s, PROMPT[:n], STRANGER, ([50 + 4 * i, 51 + 4 * i, 52 + 4 * i, 53 + 4 * i],) * 2, 0)
        for i, (s, n) in enumerate(lengths.items())
    ]
    engine.step(lengths, news, (), [])
    # Nothing was drawn for them: their last token is computed again, and draws.
    last = {s: n - 1 for s, n in lengths.items()}
    engine.prefill([610], beside=last)
    engine.decode(2, beside=last)
    engine.decode(DRAWS - 3, beside=dict(list(last.items())[:6]))


def after_a_cached_prefix(engine: Engine) -> None:
    """Another request has left the first 512 tokens' blocks: only the rest is computed."""
    engine.prefill([100, 510], name="before")
    engine.step({"other": 5}, [engine.new("other", PROMPT[:5], 100, 0, STRANGER)], (), ["other"], ["before"])
    blocks = [*range(1, 33), *range(60, 70)]
    x = NewRequest("x", PROMPT, SAMPLING, (blocks,) * 2, 512)
    engine.step({"x": 98}, [x], (), ["x"])
    engine.decode(DRAWS - 1)


def preempted(engine: Engine) -> None:
    """Run a request whose blocks are taken away after three draws, and all of its tokens computed again in others."""
    engine.prefill([610])
    engine.decode(2)
    blocks = list(range(120, 162))
    back = ContinuedRequest("x", (blocks,) * 2, 0, resumed=True)
    engine.step({"x": 400}, (), [back])
    engine.step({"x": len(PROMPT) + 3 - 400}, (), [ContinuedRequest("x", ((), ()), 400)], ["x"])
    engine.decode(DRAWS - 4)


def leave_out(isa, *, unless: bool) -> None:
    """Skip what is not promised, or what another format tests on this instruction set."""
    if isa == AMX:
        pytest.skip("not promised on AMX (docs/decisions/0005)")
    if isa == _native.ISAS["scalar"] and not unless:
        pytest.skip("plain C++ has one loop for floats and one for codes, and takes half a minute for each format")


@every_isa
@pytest.mark.parametrize("name", SOME_FORMATS)
def test_company_chunks_prefixes_preemptions_and_threads_change_no_bit(name, isa, tmp_path, monkeypatch):
    """Six draws with their log-probabilities, in each of these lives of one request."""
    leave_out(isa, unless=name in {"f32", "q4_1"})
    stored, dtype, scale = FORMATS[name]
    monkeypatch.setenv("OCTAVO_NATIVE_ISA", next(n for n, number in _native.ISAS.items() if number == isa))
    monkeypatch.setattr(native_executor, "load_weights", weights_of(stored, scale))
    check(from_hf_config(CONFIG), dtype, tmp_path)


@pytest.mark.sample(name=["q4_1"])
@every_isa
@pytest.mark.parametrize("name", ["f32", "q4_1", "q6_k"])
def test_nor_do_they_with_experts(name, isa, tmp_path, monkeypatch):
    """Where a prompt's rows are more than experts compute at once, and each expert has others' rows beside its own."""
    leave_out(isa, unless=name == "f32")
    stored, dtype, scale = FORMATS[name]
    monkeypatch.setenv("OCTAVO_NATIVE_ISA", next(n for n, number in _native.ISAS.items() if number == isa))
    monkeypatch.setattr(native_executor, "load_weights", weights_of(stored, 2 * scale))
    experts = mixture(8, 4, replace(MLP, intermediate_size=256), replace(MLP, intermediate_size=256), shared_gate=True)
    wide = attention(head_dim_k=64, head_dim_v=64, scale=0.125)  # rows of the output's matrix are whole blocks
    windowed = attention(wide.attention, window=300)
    layers = (replace(windowed, mlp=experts.mlp), replace(wide, mlp=experts.mlp))
    check(draft(layers=layers, hidden=256, vocab=263), dtype, tmp_path)


@pytest.mark.sample(name=["q4_1"])
@every_isa
@pytest.mark.parametrize("name", ["f32", "bf16", "q4_1"])
def test_nor_do_they_over_latents(name, isa, tmp_path, monkeypatch):
    """Where a prompt's rows of all heads are multiplied some at a time."""
    leave_out(isa, unless=name == "f32")
    stored, dtype, scale = FORMATS[name]
    monkeypatch.setenv("OCTAVO_NATIVE_ISA", next(n for n, number in _native.ISAS.items() if number == isa))
    monkeypatch.setattr(native_executor, "load_weights", weights_of(stored, 2 * scale))
    latent = replace(LATENT, num_heads=16, head_dim_k=40, head_dim_v=64, latent=Latent(64, 8, 64))
    layers = (attention(latent), attention(head_dim_k=64, head_dim_v=64, scale=0.125, window=300))
    check(draft(layers=layers, hidden=256, vocab=263), dtype, tmp_path)


def check(spec, dtype, folder) -> None:
    """Six draws with their log-probabilities in each life of one request."""
    files = ModelFiles(folder=folder, config=None, weights=(), weights_format="dummy", tokenizer=None)
    runs = {}
    for life, threads in ((alone, 2), (alone, 1), (alone, 3), (in_pieces, 2), (in_a_crowd, 2), (after_a_cached_prefix, 2), (preempted, 2)):  # fmt: skip
        executor = NativeExecutor(
            EngineConfig(
                model=ModelConfig(model="m", served_model_names=("m",), load_format="dummy", seed=4, dtype=dtype),
                scheduler=SchedulerConfig(max_num_seqs=64, max_num_batched_tokens=1024),
                executor=ExecutorConfig(threads=threads),
            ),
            spec,
            files,
        )
        executor.load()
        executor.init_kv((256, 256))
        engine = Engine(executor)
        life(engine)
        executor.close()
        runs[life.__name__, threads] = [(e.token_id, e.logprob, e.rank, e.top) for e in engine.x]
    expected = runs["alone", 2]
    assert len(expected) == DRAWS
    assert len({token for token, *_ in expected}) > 1
    for life, run in runs.items():
        assert run == expected, life
