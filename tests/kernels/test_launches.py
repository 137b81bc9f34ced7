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
from octavo_engine.kernels.compile_report import SHARED_LIMITS, Compiled
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
    """No more than a few words spilled, and no more shared memory than a program may take: by the compiler's own output.

    What is compiled stays in a cache outside the tree.
    """
    cache = Path.home() / ".cache" / "octavo" / f"triton-{importlib.metadata.version('triton')}"
    report = run_module("octavo_engine.kernels.compile_report", TRITON_CACHE_DIR=os.fspath(cache))
    assert report.returncode == 0, report.stdout + report.stderr
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in report.stdout.splitlines() if "|" in line}
    assert [cell.strip() for cell in rows["kernel"]] == [f"sm_{target}" for target in SHARED_LIMITS]
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


def test_tuned_launches_win_name_by_name(tmp_path):
    chosen = dict(DEFAULTS[90]["decode.128"], BLOCK_N=16)
    file = tmp_path / "tuned.json"
    file.write_text(json.dumps({"card": "x", "triton": "3.9", "launches": {"decode.128": chosen}}))
    launcher = Launcher(Card(90, 10), read_tuning(file))
    assert launcher.parameters("decode.128") == chosen
    assert launcher.parameters("decode.64") == DEFAULTS[90]["decode.64"]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"launches": {"decode.128": 3}}', '{"launches": {"decode.128": {"a": "b"}}}']
)
def test_a_file_without_launches_is_refused_by_name(tmp_path, text):
    file = tmp_path / "tuned.json"
    file.write_text(text)
    with pytest.raises(ExecutorError, match=r"tuned.json holds no launch parameters: .*; write it with"):
        read_tuning(file)


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
