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
