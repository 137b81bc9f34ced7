"""`make images-cuda CAPABILITY=90 MODEL=…`: the image brings a model's kernels along. Nothing is fetched or built here.

The step of the Containerfile is `images/kernels.sh`; that its folder is then read is `OCTAVO_KERNELS`, which the same
Containerfile sets.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from images import build as images
from images.builders import BuildError

ROOT = images.ROOT
STEP = ROOT / "images/kernels.sh"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "dtype": "bfloat16",
}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


class Builder:
    """Keeps what a build would see, and writes an empty archive."""

    name = "none"

    def __init__(self) -> None:
        self.built: list[tuple[set[str], tuple[str, ...]]] = []

    def build(self, context, containerfile, reference, arguments):
        files = {str(path.relative_to(context)) for path in (context / "images").rglob("*")}
        self.built.append((files, tuple(arguments)))

    def save(self, reference, archive):
        archive.write_bytes(b"")


@pytest.fixture
def builder(monkeypatch):
    builder = Builder()
    monkeypatch.setattr(images, "find_builder", lambda: builder)
    monkeypatch.setattr(images, "find_base", lambda *_: "base")
    monkeypatch.setattr(images, "report", lambda reference, path: f"{reference} {path.name}")
    return builder


def run_build(monkeypatch, folder, *arguments):
    monkeypatch.setattr(sys, "argv", ["build.py", "--folder", os.fspath(folder / "out" / "images"), *arguments])
    (folder / "out").mkdir(exist_ok=True)
    return images.main()


def test_the_build_is_given_capabilities_flags_and_the_models_description(builder, monkeypatch, tmp_path, model):
    flags = ["--capability", "80", "--capability", "90", "--model", os.fspath(model)]
    assert run_build(monkeypatch, tmp_path, "engine-cuda", *flags, "--compile-flags=--max-num-seqs 64") == 0
    ((files, arguments),) = builder.built
    assert {"images/kernels.sh", "images/kernels.json"} <= files
    assert not any("safetensors" in name for name in files)
    assert {"CAPABILITIES=80 90", "COMPILE_FLAGS=--max-num-seqs 64"} <= set(arguments)


def test_without_a_model_the_image_is_the_plain_one(builder, monkeypatch, tmp_path):
    assert run_build(monkeypatch, tmp_path, "engine-cuda") == 0
    ((files, arguments),) = builder.built
    assert "images/kernels.json" not in files
    assert not any(argument.startswith("CAPABILITIES") for argument in arguments)


def test_an_image_is_built_again_for_other_kernels_and_not_for_the_same(builder, monkeypatch, tmp_path, model):
    def build(*arguments):
        run_build(monkeypatch, tmp_path, "engine-cuda", "--model", os.fspath(model), *arguments)
        return len(builder.built)

    assert [build("--capability", "90"), build("--capability", "90"), build("--capability", "80")] == [1, 1, 2]
    assert build("--capability", "80", "--compile-flags=--dtype float16") == 3
    (model / "config.json").write_text(json.dumps(CONFIG | {"hidden_size": 128}))
    assert build("--capability", "80", "--compile-flags=--dtype float16") == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ["engine-cuda", "--capability", "90"],
        ["engine-cuda", "--model", "."],
        ["engine", "--capability", "90", "--model", "."],
    ],
    ids=" ".join,
)
def test_half_of_what_is_needed_is_refused(builder, monkeypatch, tmp_path, capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        run_build(monkeypatch, tmp_path, *arguments)
    assert ended.value.code == 2
    assert (
        "kernels are compiled with both --capability and --model, into the image engine-cuda" in capsys.readouterr().err
    )
    assert not builder.built


def test_a_folder_without_a_description_is_refused(tmp_path):
    with pytest.raises(BuildError, match=r"describes no model; name a folder with its config\.json, or a GGUF file"):
        images.with_kernels(images.IMAGES["engine-cuda"], ["90"], tmp_path, "")


def test_the_containerfile_runs_the_step_where_it_has_copied_it_and_the_image_reads_its_folder():
    text = (ROOT / "images/engine.Containerfile").read_text()
    stage, final = text.split("FROM scratch")
    copied, run = (
        stage.index("COPY images/kernels.* /src/images/"),
        stage.index('RUN sh images/kernels.sh "$CAPABILITIES"'),
    )
    assert stage.index("RUN sh images/trim.sh") < copied < stage.index("ARG CAPABILITIES=") < run
    read = re.search(r"OCTAVO_KERNELS=(\S+)", final)
    default = re.search(r"OCTAVO_KERNELS:-(\S+)}", STEP.read_text())
    assert read is not None
    assert default is not None
    assert read[1] == default[1]
    assert read[1].startswith("/opt/octavo/")  # what the final stage copies


def step(folder: Path, *arguments: str, python: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the step as a build would, into `folder`/kernels."""
    own = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env = own | {"PYTHON": python, "OCTAVO_KERNELS": os.fspath(folder / "kernels"), **environment}
    return subprocess.run(
        ["sh", folder / "kernels.sh", *arguments], check=False, capture_output=True, text=True, env=env
    )


@pytest.fixture
def context(tmp_path):
    """The step and a Python that prints what it is called with."""
    (tmp_path / "kernels.sh").write_bytes(STEP.read_bytes())
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    return tmp_path


def test_the_step_compiles_for_each_capability_with_the_flags(context):
    (context / "kernels.json").write_text("{}")
    done = step(context, "80 90", "--max-num-seqs 64", python=os.fspath(context / "python"))
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[:4] == ["-m", "octavo_engine.cli.compile", "--output", os.fspath(context / "kernels")]
    assert sorted(words[i + 1] for i, word in enumerate(words) if word == "--capability") == ["80", "90"]
    assert words[-4:] == ["--load-format", "dummy", "--max-num-seqs", "64"]


def test_the_step_takes_a_gguf_file_as_it_is(context):
    (context / "kernels.gguf").write_bytes(b"")
    words = step(context, "90", "", python=os.fspath(context / "python")).stdout.split()
    assert words[-2:] == ["--model", os.fspath(context / "kernels.gguf")]


def test_without_capabilities_the_step_leaves_an_empty_folder(context):
    done = step(context, "", "", python="/nowhere")
    assert done.returncode == 0, done.stderr
    assert list((context / "kernels").iterdir()) == []


def test_the_step_says_where_the_model_is_expected(context):
    done = step(context, "90", python="/nowhere")
    assert done.returncode == 2
    assert "put its config.json at images/kernels.json" in done.stderr


READ = """
import os, sys
from octavo_engine.kernels.triton import kernel_cache
from octavo_engine.cli.compile import main

def compiling(*_):
    raise AssertionError("a kernel is compiled although the image has it")

kernel_cache._compiling = compiling
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_the_step_has_compiled_is_all_that_an_engine_looks_for(context, model):
    """Real kernels of a tiny model: found in the image's folder, which is only read, beside an empty cache."""
    (context / "kernels.json").write_text(json.dumps(CONFIG))
    engine = os.fspath(ROOT / "engine")
    done = step(context, "90", "--max-num-seqs 4", python=sys.executable, PYTHONPATH=engine)
    assert done.returncode == 0, done.stderr
    before = {path for path in (context / "kernels").rglob("*") if path.is_file()}
    assert any(path.suffix == ".cubin" for path in before)
    own = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env = own | {"PYTHONPATH": engine, "OCTAVO_KERNELS": os.fspath(context / "kernels")}
    flags = ["--capability", "90", "--max-num-seqs", "4", "--model", os.fspath(model), "--load-format", "dummy"]
    command = [sys.executable, "-c", READ, "--output", os.fspath(context / "cache"), *flags]
    read = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
    assert read.returncode == 0, read.stderr
    assert not list((context / "cache").rglob("*.cubin"))
    assert {path for path in (context / "kernels").rglob("*") if path.is_file()} == before
