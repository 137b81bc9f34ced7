"""The engine on this machine's GPU: first that it is right, then how fast. `make bench-gpu`.

Needs torch and triton alone: weights are random, nothing is fetched, no server is imported. Prints Markdown for
docs/LOG.md: the GPU's measured limits; tokens a second; each operation's share of the roofline.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version

try:
    import torch
except ModuleNotFoundError:
    sys.exit(
        "no torch: this needs a machine with a GPU, torch 2.11 and triton 3.6 or newer; set PYTHON to one that has"
    )
from bench.bare_msgspec import stand_in

stand_in()

from bench.gpu_kernels import KINDS, Shape, table
from bench.gpu_limits import Limits, measure_limits
from bench.gpu_wide import wide
from bench.whole_engine import SMALL, engine, expected, random_weights, request, run, small_engine, small_requests

from octavo_engine.config import CacheConfig, SchedulerConfig
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.errors import DeviceLostError
from octavo_engine.executors.torch.model_configs import LLAMA_3_8B
from octavo_engine.kernels.backends import operations_on
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_models import from_hf_config
from octavo_models.spec import ModelSpec

MODELS = {
    "Llama-3-8B": LLAMA_3_8B,
    "Qwen3-0.6B": {
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": 151_936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40_960,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    },
}
IN_FLIGHT = (1, 32, 256)
DECODES = (1, 2, 3, 256)  # each another launch: one program, a padded graph, an odd number, many
PROMPT, OUTPUT = 512, 128  # tokens of a request that is decoded
PREFILL, NUM_PREFILLS = 1024, 32  # tokens of a prompt, and prompts, where prefill is measured
STEP_TOKENS = 8192
SHAPES = [
    Shape("1 decode of 1k", 1, 1024, 1),
    Shape("32 decodes of 1k", 32, 1024, 1),
    Shape("256 decodes of 1k", 256, 1024, 1),
    Shape("4 prefills of 2k", 4, 2048, 2048),
]


def check(device: torch.device, num_tokens: int = 24) -> Iterator[str]:
    """Every small model with and without graphs against the plain operations on the CPU; what went well.

    Raises:
        SystemExit: a token is not the one.
    """
    for kind in SMALL:
        wanted = expected(kind, num_tokens)
        for eager in (True, False):
            got = run(small_engine(kind, device, eager=eager), small_requests(num_tokens))
            how = "without graphs" if eager else "with graphs"
            if got != wanted:
                wrong = next(name for name in wanted if got[name] != wanted[name])
                raise SystemExit(f"{kind} {how}: request {wrong} got {got[wrong]}, and should {wanted[wrong]}")
            yield f"{kind} {how}: {sum(map(len, got.values()))} tokens as on the CPU"


def machine(device: torch.device) -> Iterator[str]:
    """Versions, and what the GPU allows by its own copies and products."""
    properties = torch.cuda.get_device_properties(device)
    driver = torch._C._cuda_getDriverVersion()  # noqa: SLF001 — no public name
    yield f"python {sys.version.split()[0]}, torch {torch.__version__}, triton {version('triton')}"
    yield f"built for CUDA {torch.version.cuda}; the driver serves CUDA {driver // 1000}.{driver % 1000 // 10}"
    yield (
        f"{torch.cuda.device_count()} x {properties.name}, compute capability {properties.major}.{properties.minor}, "
        f"{properties.multi_processor_count} SMs, {properties.total_memory / (1 << 30):.1f} GiB"
    )
    yield measure_limits(device).describe()


def decodes(device: torch.device, num_tokens: int = 6) -> Iterator[str]:
    """Compare as many requests at a time as make other launches with the plain operations on the CPU.

    Raises:
        SystemExit: a token is not the one.
    """
    for n in DECODES:
        asked = [request(str(i), [(5 * i + j) % 97 for j in range(3 + i % 40)], num_tokens) for i in range(n)]
        options = {"max_num_seqs": max(DECODES), "cache": CacheConfig(num_gpu_blocks_override=2048)}
        cpu = torch.device("cpu")
        wanted = run(small_engine("llama", cpu, operations=ReferenceOperations(), **options), asked)
        for eager in (True, False):
            got = run(small_engine("llama", device, eager=eager, **options), asked)
            wrong = [name for name in wanted if got[name] != wanted[name]]
            how = "without graphs" if eager else "with graphs"
            if wrong:
                name = wrong[0]
                raise SystemExit(
                    f"{n} decodes {how}: {len(wrong)} differ; request {name} got {got[name]}, and should {wanted[name]}"
                )
            yield f"{n} decodes {how}: as on the CPU"


def fault(device: torch.device) -> Iterator[str]:
    """Corrupt the context in the middle of a request: the engine must say that the GPU is lost, not blame the request.

    Raises:
        SystemExit: it goes on as if nothing had happened.
    """
    core = small_engine("llama", device, eager=True)
    for r in small_requests(4):
        core.add(r)
    core.step()
    torch.zeros(8, device=device)[torch.full((1,), 1 << 40, device=device)]  # a read of what is not there
    start = time.perf_counter()
    try:
        while core.has_work:
            core.step()
    except DeviceLostError as error:
        yield f"after {time.perf_counter() - start:.2f} s: {error}"
        return
    raise SystemExit("the context was corrupted, and the engine took it for its requests' fault")


def decode_rate(core: EngineCore, in_flight: int, prompt: int, output: int, vocab: int) -> float:
    """Output tokens a second of `in_flight` requests at a time, from when all of them decode to the first one's end."""
    for i in range(in_flight):
        core.add(request(f"{in_flight}-{i}", [(31 * i + j) % vocab for j in range(prompt)], output))
    counts: dict[str, int] = {}
    started = finished = 0.0
    tokens = 0
    while core.has_work:
        made = core.step()
        if started and not finished:
            tokens += sum(len(o.new_token_ids) for o in made)
        for o in made:
            counts[o.request_id] = counts.get(o.request_id, 0) + len(o.new_token_ids)
            if o.finish_reason and not finished:
                finished = time.perf_counter()
        if not started and len(counts) == in_flight and all(counts.values()):
            started = time.perf_counter()
    return tokens / (finished - started)


def prefill_rate(core: EngineCore, num_prompts: int, prompt: int, vocab: int) -> float:
    """Prompt tokens a second, a token drawn after each prompt included."""
    core.reset_prefix_cache()
    for i in range(num_prompts):
        core.add(request(f"prefill-{i}", [(17 * i + 3 * j) % vocab for j in range(prompt)], 1))
    start = time.perf_counter()
    while core.has_work:
        core.step()
    return num_prompts * prompt / (time.perf_counter() - start)


def bounds(spec: ModelSpec, limits: Limits, in_flight: int, length: int) -> tuple[float, float]:
    """(decode, prefill) in tokens a second, if weights and blocks were read at the device's rate and nothing else cost."""
    weights = spec.weight_bytes("bfloat16")
    blocks = sum(2 * (layer.attention.k_size + layer.attention.v_size) for layer in spec.layers) * length * in_flight
    flops = 2.0 * spec.num_parameters
    decode = in_flight / max((weights + blocks) / limits.bandwidth, in_flight * flops / limits.flops)
    return decode, limits.flops / flops


def measure(name: str, spec: ModelSpec, device: torch.device, limits: Limits) -> Iterator[str]:
    """Rows in Markdown of one model."""
    core = engine(
        spec,
        lambda: random_weights(spec, torch.bfloat16, device, 0.02),
        device,
        dtype="bfloat16",
        max_model_len=max(PREFILL, PROMPT + OUTPUT) + 1,
        cache=CacheConfig(),
        scheduler=SchedulerConfig(max_num_seqs=max(IN_FLIGHT), max_num_batched_tokens=STEP_TOKENS),
    )
    yield f"| {name} | KV blocks | {core.kv_cache_bytes / (1 << 30):.1f} GiB | |"
    for in_flight in IN_FLIGHT:
        for _ in range(2):  # the first time graphs are captured
            rate = decode_rate(core, in_flight, PROMPT, OUTPUT, spec.vocab_size)
        bound = bounds(spec, limits, in_flight, PROMPT + OUTPUT // 2)[0]
        yield f"| {name} | output, {in_flight} in flight | {rate:,.0f} tokens/s | {rate / bound:.0%} |"
    for _ in range(2):
        rate = prefill_rate(core, NUM_PREFILLS, PREFILL, spec.vocab_size)
    bound = bounds(spec, limits, 1, 1)[1]
    yield f"| {name} | prefill, prompts of {PREFILL} | {rate:,.0f} tokens/s | {rate / bound:.0%} |"
    core.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["all", *CHECKS, "kernels", "rates"], nargs="?", default="all")
    parser.add_argument("--model", choices=MODELS, action="append", help="otherwise all")
    parser.add_argument("--only", choices=KINDS, help="of the kernels, otherwise all")
    arguments = parser.parse_args()
    part = arguments.part
    if not torch.cuda.is_available():
        print("this machine has no GPU that torch can use: torch.cuda.is_available() is false")
        return 1
    device = torch.device("cuda")
    for name, run_check in CHECKS.items():
        if part == name or (part == "all" and name != "fault"):  # nothing runs after a fault
            for line in run_check(device):
                print(line, flush=True)
    if part in CHECKS:
        return 0
    limits = measure_limits(device)
    print(f"\n{limits.describe()}; torch {torch.__version__}")
    specs = {name: from_hf_config(MODELS[name]) for name in arguments.model or MODELS}
    for name, spec in specs.items() if part != "rates" else ():
        print(f"\n{name}")
        only = None if arguments.only is None else KINDS[arguments.only]
        for line in table(operations_on(device), spec, SHAPES, torch.bfloat16, device, limits, only=only):
            print(line, flush=True)
    print("\n| model | what | measured | of the GPU's limit |\n|---|---|--:|--:|" if part != "kernels" else "")
    for name, spec in specs.items() if part != "kernels" else ():
        for line in measure(name, spec, device, limits):
            print(line, flush=True)
        torch.cuda.empty_cache()
    return 0


CHECKS = {"machine": machine, "decodes": decodes, "fault": fault, "check": check, "wide": wide}


if __name__ == "__main__":
    sys.exit(main())
