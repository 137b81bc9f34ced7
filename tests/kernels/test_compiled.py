"""The compiler's output of a kernel is read, and whether a GPU can hold it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from octavo_engine.kernels import compiled
from octavo_engine.kernels.assembly import bytes_in_flight, instructions_of_products
from octavo_engine.kernels.compiled import Compiled
from octavo_engine.kernels.residency import GPUS, SMS


def run_module(name, *arguments, **environment):
    """A fresh interpreter in which kernels are compiled, with the engine on its path."""
    own = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", name, *arguments]
    env = {**own, "PYTHONPATH": python_path(), **environment}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=env)


def python_path(*folders):
    engine = Path(compiled.__file__).parents[2]
    return os.pathsep.join([*map(str, folders), str(engine), *filter(None, [os.environ.get("PYTHONPATH")])])


COMPILE_FLOAT8 = """
import torch
from octavo_engine.kernels.triton.float8_matmul import float8_kernel
from octavo_engine.kernels.triton.launch_defaults import DEFAULTS
from octavo_engine.kernels.triton.variants import Variant, compiled_for

empty = lambda *shape, dtype=torch.float32: torch.empty(*shape, dtype=dtype, device="meta")
x, weight = (empty(64, 4096, dtype=torch.float8_e4m3fn) for _ in range(2))
args = (x, weight, empty(64), empty(64), None, empty(2, 64, 64), 64, 64, 4096)
options = {"HAS_BIAS": False, **DEFAULTS[90]["float8.64"]}
del options["SPLIT_K"]
print(compiled_for(90, Variant.of(float8_kernel, args, options)).asm["ttgir"])
"""


@pytest.mark.slow
def test_float8_sums_on_sm_90_go_to_float32_every_128_products(tmp_path):
    """The GPU's matrix units add products of float8 up with some 13 bits; Triton lets them do so to the end of K."""
    (tmp_path / "compile_float8.py").write_text(COMPILE_FLOAT8)
    made = run_module("compile_float8", TRITON_CACHE_DIR=os.fspath(tmp_path), PYTHONPATH=python_path(tmp_path))
    assert made.returncode == 0, made.stderr
    assert "ttng.warp_group_dot" in made.stdout
    assert "maxNumImpreciseAcc = 128 " in made.stdout


def test_what_a_gpu_cannot_hold_is_a_fault():
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
