"""`octavo compile` compiles what `octavo serve` with the same flags would, on a machine without a GPU."""

from __future__ import annotations

import json
import os

import pytest
from octavo_testing.kernel_traffic import LLAMA_3_8B

from octavo_engine.cli.compile import main
from octavo_engine.kernels.triton import kernel_cache
from octavo_engine.kernels.triton.launch_defaults import DEFAULTS


@pytest.fixture
def prepared(monkeypatch, tmp_path):
    """(capability, variants, folder) of each call; nothing is compiled."""
    calls = []

    def prepare(variants, capability, workers, report, *, on_gpu):
        assert not on_gpu
        report(0, len(variants))
        calls.append((capability, variants, workers, os.environ["TRITON_CACHE_DIR"]))
        return {}

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", os.fspath(tmp_path / "usual"))
    monkeypatch.setattr(kernel_cache, "prepare", prepare)
    return calls


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_3_8B))
    return os.fspath(folder)


def test_every_capability_gets_the_kernels_of_its_kind(prepared, model, tmp_path):
    out = tmp_path / "kernels"
    flags = ["--model", model, "--load-format", "dummy", "--max-num-seqs", "64"]
    assert (
        main(["--capability", "9.0", "--capability", "80", "--output", os.fspath(out), "--workers", "3", *flags]) == 0
    )
    assert [(capability, workers, folder) for capability, _, workers, folder in prepared] == [
        (80, 3, os.fspath(out)),
        (90, 3, os.fspath(out)),
    ]
    for capability, variants, *_ in prepared:
        decode = [dict(v.options) for v in variants if v.name == "decode_kernel"]
        assert {options["REQUESTS"] for options in decode} == {16, 64}
        assert {options["num_stages"] for options in decode} == {DEFAULTS[capability]["decode.128"]["num_stages"]}


def test_ranks_compile_their_own_parts(prepared, model):
    flags = ["--model", model, "--load-format", "dummy"]
    assert main(["--capability", "90", "-tp", "4", *flags]) == 0
    heads = {dict(v.options)["KV_HEADS"] for v in prepared[0][1] if v.name == "decode_kernel"}
    assert heads == {2}


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--capability", "75"], None, "argument --capability: '75' is no compute capability that kernels are written"),
        (["--capability", "hopper"], None, "argument --capability: 'hopper' is no compute capability"),
        (["--capability", "90", "--workers", "0"], None, "argument --workers: '0' is not a whole number of at least 1"),
        ([], None, "the following arguments are required: --capability"),
        (["--capability", "90", "--max-num-sequences", "2"], 2, "--max-num-sequences"),
        (["--capability", "90", "-tp", "3"], 1, "--tensor-parallel-size"),
        (["--capability", "90", "--kernel-parameters", "/none.json"], 1, "--kernel-parameters /none.json holds no"),
    ],
)
def test_what_is_wrong_is_named(prepared, model, capsys, flags, code, said):
    arguments = [*flags, "--model", model, "--load-format", "dummy"]
    if code is None:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    else:
        assert main(arguments) == code
    assert said in capsys.readouterr().err
    assert not prepared
