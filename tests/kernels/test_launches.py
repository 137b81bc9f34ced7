"""Every kernel compiles for every card within its limits; launch parameters come from tables and files that are checked."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from octavo_engine.errors import ExecutorError
from octavo_engine.kernels import tune
from octavo_engine.kernels.assembly import bytes_in_flight, instructions_of_products
from octavo_engine.kernels.compile_report import NUM_SMS, Compiled, regressions
from octavo_engine.kernels.residency import GPUS, SMS
from octavo_engine.kernels.triton.launch import Card, Launcher, read_tuning
from octavo_engine.kernels.triton.launch_defaults import DEFAULTS


def run_module(name, *arguments, **environment):
    """A fresh interpreter in which kernels are compiled, with the engine on its path."""
    own = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", name, *arguments]
    env = {**own, "PYTHONPATH": python_path(), **environment}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=env)


def python_path(*folders):
    engine = Path(tune.__file__).parents[2]
    return os.pathsep.join([*map(str, folders), str(engine), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_kernel_compiles_for_every_card_within_its_limits():
    """No more than a few words spilled, no more shared memory than a program may take, and no figure worse than the
    baseline has it (programs an SM, bytes in flight, spills, instructions a weight): by the compiler's own output.

    What is compiled stays in a cache outside the tree.
    """
    cache = Path.home() / ".cache" / "octavo" / f"triton-{importlib.metadata.version('triton')}"
    baseline = os.fspath(Path(__file__).parent / "compiled.json")
    arguments = ("octavo_engine.kernels.compile_report", "--baseline", baseline)
    report = run_module(*arguments, TRITON_CACHE_DIR=os.fspath(cache))
    assert report.returncode == 0, report.stdout + report.stderr
    sizes, flights, costs = (
        {line.split("|")[1].strip(): line.split("|")[2:-1] for line in block.splitlines()}
        for block in report.stdout.split("\n\n")
        if block.startswith("|")
    )
    rows = sizes
    assert [cell.strip() for cell in rows["kernel"]] == [f"sm_{target}" for target in sorted(NUM_SMS)]
    assert [cell.strip() for cell in flights["pipelined"]] == [gpu.name for gpu in GPUS]
    assert all(int(cell) >= gpu.bytes_in_flight / 1024 for cell, gpu in zip(flights["decode llama"], GPUS, strict=True))
    assert all(float(cell) > 0 for row in list(costs.values())[2:] for cell in row if cell.strip() != "–")
    assert all(cell.strip() != "–" for cell in rows["decode llama"])
    assert [cell.strip() == "–" for cell in rows["float8 64"]] == [True, False, False, False]


COMPILE_FLOAT8 = """
import torch
from octavo_engine.kernels.triton.float8_matmul import float8_kernel
from octavo_engine.kernels.triton.launch_defaults import DEFAULTS
from octavo_engine.kernels.triton.variants import Variant, compiled_for

empty = lambda *shape, dtype=torch.float32: torch.empty(*shape, dtype=dtype, device="meta")
x, weight = (empty(64, 4096, dtype=torch.float8_e4m3fn) for _ in range(2))
args = (x, weight, empty(64), empty(64), None, empty(2, 64, 64), 64, 64, 4096)
options = {"HAS_BIAS": False, **DEFAULTS[90]["float8.64"]}
print(compiled_for(90, Variant.of(float8_kernel, args, options)).asm["ttgir"])
"""


def test_float8_sums_on_sm_90_go_to_float32_every_128_products(tmp_path):
    """Its matrix units add products of float8 up with some 13 bits; Triton lets them do so to the end of K."""
    (tmp_path / "compile_float8.py").write_text(COMPILE_FLOAT8)
    made = run_module("compile_float8", TRITON_CACHE_DIR=os.fspath(tmp_path), PYTHONPATH=python_path(tmp_path))
    assert made.returncode == 0, made.stderr
    assert "ttng.warp_group_dot" in made.stdout
    assert "maxNumImpreciseAcc = 128 " in made.stdout


def test_what_a_card_cannot_hold_is_a_fault():
    fits = Compiled("k", 89, 4, 128, 16, 99 << 10)
    assert fits.faults() == []
    assert Compiled("k", 89, 4, 128, 0, (99 << 10) + 1).faults() == [
        "sm_89 k: 101377 bytes of shared memory, a program may take 101376"
    ]
    assert "256 registers on 16 warps" in Compiled("k", 90, 16, 256, 0, 0).faults()[0]
    assert "20 bytes of registers spilled" in Compiled("k", 90, 4, 255, 20, 0).faults()[0]


@pytest.mark.parametrize(
    ("target", "registers", "warps", "shared", "resident"),
    [
        (90, 32, 4, 0, 16),  # warps: 64
        (90, 120, 4, 70 << 10, 3),  # shared memory: 228 KiB
        (80, 255, 8, 48 << 10, 1),  # registers: 65,536
        (89, 24, 1, 0, 24),  # programs
        (89, 33, 4, 0, 12),  # 33 registers take 40
        (75, 64, 4, 40 << 10, 1),
        (89, 32, 4, 100 << 10, 0),  # more than a program may take
    ],
)
def test_programs_of_an_sm_end_where_its_scarcest_part_does(target, registers, warps, shared, resident):
    assert SMS[target].resident(registers, warps, shared) == resident


def test_what_memory_needs_in_flight_is_latency_times_bandwidth():
    for gpu in GPUS:
        assert gpu.latency * gpu.bandwidth / gpu.num_sms == pytest.approx(gpu.bytes_in_flight)
        assert 0.8e-6 < gpu.latency < 1.5e-6


COPIES = """
$L__BB0_1:
	cp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, %r9;
	bra 	$L__BB0_9;
$L__BB0_2:
	cp.async.wait_group 	{wait};
	mma.sync
	@%p1 cp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, %r9;
	cp.async.ca.shared.global [ %r2 + 0 ], [ %rd2 + 0 ], 0x4, %r9;
	cp.async.commit_group;
	cp.async.cg.shared.global [ %r3 + 0 ], [ %rd3 + 0 ], 0x10, %r9;
	cp.async.commit_group;
	@%p2 bra 	$L__BB0_2;
	@%p3 bra 	$L__BB0_1;
"""


@pytest.mark.parametrize(("wait", "left"), [(0, 0), (1, 16), (2, 36), (4, 72)])
def test_bytes_in_flight_are_those_that_no_wait_of_the_inner_loop_covers(wait, left):
    assert bytes_in_flight(COPIES.format(wait=wait)) == left
    assert bytes_in_flight("$L__BB0_1:\n\tld.global.b32 { %r1 }, [ %rd1 + 0 ];\n\t@%p1 bra $L__BB0_1;") is None


def test_instructions_are_those_of_the_innermost_loop_with_products():
    code = ["IADD3 R1, R1, R2", "HMMA.16816.F32.BF16 R4, R5, R6, R4", "@P0 BRA 0x10", "EXIT", "BRA.U !UP3, 0x10"]
    sass = "\n".join(f"        /*{16 * (i + 1):04x}*/    {line} ;  /* 0x00 */" for i, line in enumerate(code))
    assert instructions_of_products(sass) == 3
    assert instructions_of_products(sass.replace("HMMA", "IMAD")) == 0


def test_what_got_worse_than_the_baseline_is_named():
    import triton

    made = Compiled("decode llama", 90, 4, 120, 0, 70 << 10, 396, 32 << 10)
    product = Compiled("packed q4_0 1", 90, 4, 96, 0, 24 << 10, 256, 16 << 10, 8.5)
    same = {made.key: made.figures(), product.key: product.figures()}
    baseline = {"triton": triton.__version__, "kernels": same}
    assert made.figures() == [3, 3 * (32 << 10), 0, 0]
    assert regressions([made, product], baseline) == []
    worse = {
        "programs an SM 3 → 2": Compiled("decode llama", 90, 4, 200, 0, 70 << 10, 396, 48 << 10),
        "bytes in flight an SM 98304 → 0": Compiled("decode llama", 90, 4, 120, 0, 70 << 10, 396, 0),
        "bytes spilled 0 → 8": Compiled("decode llama", 90, 4, 120, 8, 70 << 10, 396, 32 << 10),
    }
    for what, now in worse.items():
        others = [c for c in (made, product) if c.key != now.key]
        assert any(what in fault for fault in regressions([now, *others], baseline)), what
    cheaper = Compiled("packed q4_0 1", 90, 4, 96, 0, 24 << 10, 256, 16 << 10, 9.5)
    assert ["instructions a weight 8.5 → 9.5" in fault for fault in regressions([made, cheaper], baseline)] == [True]
    assert "not compiled any more" in regressions([made], baseline)[0]
    assert regressions([made], {"triton": "0", "kernels": {}})[0].startswith("the baseline is of Triton 0")


def test_the_kernels_need_nothing_of_the_server():
    """So that a bare machine with a card can test and tune them."""
    code = "import octavo_engine.kernels.tune, octavo_engine.kernels.compile_report, sys; print(*sys.modules)"
    engine = str(Path(tune.__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": engine},
    )
    assert not {"msgspec", "aiohttp", "pydantic", "zmq", "jinja2", "tokenizers"} & set(result.stdout.split())


@pytest.mark.parametrize(
    ("capability", "family"), [(80, 80), (86, 89), (87, 80), (89, 89), (90, 90), (100, 100), (103, 100), (120, 89)]
)
def test_a_card_between_generations_takes_the_launches_of_its_like(capability, family):
    launcher = Launcher(Card(capability, 10))
    assert launcher.parameters("decode.128") == DEFAULTS[family]["decode.128"]


def test_every_generation_has_every_launch():
    names = {tuple(sorted(table)) for table in DEFAULTS.values()}
    assert len(names) == 1


def tuned_file(folder, launches, capability=90):
    file = folder / "tuned.json"
    file.write_text(json.dumps({"card": "x", "capability": capability, "triton": "3.9", "launches": launches}))
    return file


def test_tuned_launches_win_name_by_name(tmp_path):
    chosen = dict(DEFAULTS[90]["decode.128"], BLOCK_N=16)
    card = Card(90, 10)
    launcher = Launcher(card, read_tuning(tuned_file(tmp_path, {"decode.128": chosen}), card))
    assert launcher.parameters("decode.128") == chosen
    assert launcher.parameters("decode.64") == DEFAULTS[90]["decode.64"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"capability": 90, "launches": {"decode.128": 3}}', '{"capability": 90}', '{"launches": {}}',
     '{"capability": 90, "launches": {"decode.128": {"a": "b"}}}'],
)  # fmt: skip
def test_a_file_without_launches_is_refused_by_name(tmp_path, text):
    file = tmp_path / "tuned.json"
    file.write_text(text)
    with pytest.raises(ExecutorError, match=r"--kernel-parameters .*tuned.json holds no launch parameters: .*; write"):
        read_tuning(file, Card(90, 10))


def test_launches_of_another_gpu_or_another_version_are_refused(tmp_path):
    """Their tiles may take more shared memory than this one has, or lack what the kernels read."""
    chosen = DEFAULTS[90]["decode.128"]
    file = tuned_file(tmp_path, {"decode.128": chosen})
    with pytest.raises(ExecutorError, match=r"is for compute capability 9\.0, and this GPU has 8\.9"):
        read_tuning(file, Card(89, 10))
    for launches in ({"decode.100": chosen}, {"decode.128": {"BLOCK_N": 16}}, {"decode.128": {**chosen, "DEPTH": 1}}):
        with pytest.raises(ExecutorError, match=r"for the kernels of another version: decode\.1[02][08] takes"):
            read_tuning(tuned_file(tmp_path, launches), Card(90, 10))


class CompilerError(Exception):
    """As the passes raise: of any type, of many lines."""


@pytest.mark.parametrize("error", [CompilerError("PassManager::run failed\nmore"), RuntimeError("ptxas"), ValueError()])
def test_tuning_goes_on_after_a_candidate_that_does_not_compile(monkeypatch, capsys, error):
    def bench(run, **_):
        run()
        return 1.0

    def run(ops):
        if ops.launch.parameters("decode.128")["BLOCK_N"] == 128:
            raise error

    monkeypatch.setattr(tune.triton.testing, "do_bench", bench)
    monkeypatch.setattr(tune.torch.cuda, "synchronize", lambda: None)
    time = tune.time_on(Launcher(Card(90, 10)), "decode.128", run)
    default = DEFAULTS[90]["decode.128"]
    assert time({**default, "BLOCK_N": 128}) is None
    assert time({**default, "BLOCK_N": 32}) == 1.0
    said = capsys.readouterr().err
    assert said.count("does not run") == 1
    assert said.count("\n") == 1


def test_tuning_ends_where_a_candidate_took_the_gpu_along(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(tune.triton.testing, "do_bench", fail)
    monkeypatch.setattr(tune.torch.cuda, "synchronize", fail)
    time = tune.time_on(Launcher(Card(90, 10)), "decode.128", lambda ops: None)
    with pytest.raises(ExecutorError, match=r"decode\.128 with .* corrupted the GPU's context"):
        time(DEFAULTS[90]["decode.128"])


def test_tuning_takes_the_fastest_that_fits():
    default = DEFAULTS[90]["decode.128"]
    times = {32: 3.0, 64: 2.0, 16: None}  # by BLOCK_N; others 5
    tried = list(tune.candidates("decode.128", default))
    assert tried[0] == default
    assert len(tried) == len({tuple(sorted(c.items())) for c in tried}) == 4 * 2 * 3 * 2 * 4
    best = tune.fastest(iter(tried), lambda c: times.get(c["BLOCK_N"], 5.0))
    assert best is not None
    assert (best[0]["BLOCK_N"], best[1]) == (64, 2.0)
    assert tune.fastest(iter(tried), lambda c: None) is None
