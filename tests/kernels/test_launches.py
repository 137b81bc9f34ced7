"""Launch parameters come from tables and files that are checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from octavo_engine.errors import ExecutorError
from octavo_engine.kernels import tune
from octavo_engine.kernels.triton.launch import Gpu, Launcher, read_tuning
from octavo_engine.kernels.triton.launch_defaults import DEFAULTS


@pytest.mark.slow
def test_the_kernels_need_nothing_of_the_server():
    """A bare machine with a GPU can then test and tune them."""
    code = "import octavo_engine.kernels.tune, octavo_engine.kernels.compiled, sys; print(*sys.modules)"
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
def test_a_gpu_between_generations_takes_the_launches_of_its_like(capability, family):
    launcher = Launcher(Gpu(capability, 10))
    assert launcher.parameters("decode.128") == DEFAULTS[family]["decode.128"]


def test_every_generation_has_every_launch():
    names = {tuple(sorted(table)) for table in DEFAULTS.values()}
    assert len(names) == 1


def tuned_file(folder, launches, capability=90):
    file = folder / "tuned.json"
    file.write_text(json.dumps({"gpu": "x", "capability": capability, "triton": "3.9", "launches": launches}))
    return file


def test_tuned_launches_win_name_by_name(tmp_path):
    chosen = dict(DEFAULTS[90]["decode.128"], BLOCK_N=16)
    gpu = Gpu(90, 10)
    launcher = Launcher(gpu, read_tuning(tuned_file(tmp_path, {"decode.128": chosen}), gpu))
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
        read_tuning(file, Gpu(90, 10))


def test_launches_of_another_gpu_or_another_version_are_refused(tmp_path):
    """Launches of either may take more shared memory than this GPU has, or lack what the kernels read."""
    chosen = DEFAULTS[90]["decode.128"]
    file = tuned_file(tmp_path, {"decode.128": chosen})
    with pytest.raises(ExecutorError, match=r"is for compute capability 9\.0, and this GPU has 8\.9"):
        read_tuning(file, Gpu(89, 10))
    for launches in ({"decode.100": chosen}, {"decode.128": {"BLOCK_N": 16}}, {"decode.128": {**chosen, "DEPTH": 1}}):
        with pytest.raises(ExecutorError, match=r"for the kernels of another version: decode\.1[02][08] takes"):
            read_tuning(tuned_file(tmp_path, launches), Gpu(90, 10))


class CompilerError(Exception):
    """An error as the passes raise it: of any type, of many lines."""


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
    time = tune.time_on(Launcher(Gpu(90, 10)), "decode.128", run)
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
    time = tune.time_on(Launcher(Gpu(90, 10)), "decode.128", lambda ops: None)
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
