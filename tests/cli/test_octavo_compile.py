"""`octavo compile` compiles what `octavo serve` with the same flags would, on a machine without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from octavo_engine.cli.arguments import parse_with_notes
from octavo_engine.cli.compile import main
from octavo_engine.executors.torch import warm_up
from octavo_engine.executors.torch.kernel_lists import name_of, read_list
from octavo_engine.executors.torch.model_configs import LLAMA_3_8B
from octavo_engine.kernels.folders import entry_of
from octavo_engine.kernels.triton.launch_defaults import DEFAULTS
from octavo_models import from_hf_config
from octavo_models.partition import Place


@pytest.fixture
def prepared(monkeypatch, tmp_path):
    """(capability, variants, folder) of each call; nothing is compiled."""
    calls = []

    def prepare(variants, capability, workers, report, *, on_gpu):
        assert not on_gpu
        report(0, len(variants))
        folder = Path(os.environ["TRITON_CACHE_DIR"])
        calls.append((capability, variants, workers, os.fspath(folder)))
        return {variant: placed(folder, capability, i, variant.name) for i, variant in enumerate(variants)}

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", os.fspath(tmp_path / "usual"))
    monkeypatch.setattr(warm_up, "prepare", prepare)
    return calls


def placed(folder, capability, number, name):
    """An entry of Triton's cache, and the hash that it is found by."""
    code = SimpleNamespace(hash=f"{capability:04x}{number:060x}")
    entry = folder / entry_of(code.hash)
    entry.mkdir(parents=True, exist_ok=True)
    (entry / f"__grp__{name}.json").write_text(json.dumps({"child_paths": {f"{name}.cubin": "elsewhere"}}))
    (entry / f"{name}.cubin").write_bytes(b"")
    return code


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


def test_without_flags_the_kernels_are_those_of_an_engine_on_a_gpu(prepared, model):
    """Its limits differ from those of the CPU that this machine has, and so does the list that it looks for."""
    flags = ["--model", model, "--load-format", "dummy"]
    assert main(["--capability", "90", *flags]) == 0
    served, _ = parse_with_notes([*flags, "--device", "cuda"])
    listed = read_list(name_of(served, from_hf_config(LLAMA_3_8B), Place(), 90))
    assert listed is not None
    assert len(listed) == len(prepared[0][1])


def test_ranks_compile_their_own_parts(prepared, model):
    flags = ["--model", model, "--load-format", "dummy"]
    assert main(["--capability", "90", "-tp", "4", *flags]) == 0
    heads = {dict(v.options)["KV_HEADS"] for v in prepared[0][1] if v.name == "decode_kernel"}
    assert heads == {2}


def test_what_is_compiled_already_is_not_even_looked_for_with_torch(prepared, model, tmp_path):
    """The second run imports neither PyTorch nor Triton, which take longer than all else that it does."""
    flags = ["--capability", "90", "--output", os.fspath(tmp_path / "out"), "--model", model, "--load-format", "dummy"]
    assert main(flags) == 0
    assert len(prepared) == 1
    code = f"import sys; from octavo_engine.cli.compile import main; code = main({flags!r}); print(*sys.modules); sys.exit(code)"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    again = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment)
    assert again.returncode == 0, again.stderr
    number = len(prepared[0][1])
    assert f"{number} kernels of {model} for compute capability 9.0 are in {tmp_path / 'out'}" in again.stderr
    assert not {"torch", "triton"} & set(again.stdout.split())


def test_a_kernel_that_went_is_compiled_again(prepared, model, tmp_path):
    flags = ["--capability", "90", "--output", os.fspath(tmp_path / "out"), "--model", model, "--load-format", "dummy"]
    assert main(flags) == main(flags) == 0
    assert len(prepared) == 1
    next((tmp_path / "out").glob("*/decode_kernel.cubin")).unlink()
    assert main(flags) == 0
    assert len(prepared) == 2


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
