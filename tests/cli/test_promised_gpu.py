"""An engine that was promised a GPU and can use none exits with one sentence that says why and what to do.

No GPU is needed: the driver is absent, or a library of a few lines that says what a broken one would.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from octavo_engine import gpus
from octavo_engine.cli import device_defaults
from octavo_engine.cli.arguments import parse
from octavo_engine.cli.device_defaults import ON_CPU, ON_GPU
from octavo_engine.errors import ConfigError, GpuUnavailableError
from octavo_engine.executors import require_device

ROOT = Path(__file__).parents[2]
DRIVER = """
int cuInit(unsigned flags) { return %d; }
int cuDeviceGetCount(int *count) { *count = %d; return 0; }
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
"""


@pytest.fixture
def driver(tmp_path):
    """Compiles a driver that starts with a status and shows a number of GPUs."""
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler to make a driver of")

    def made(status: int, count: int) -> dict[str, str]:
        (tmp_path / "cuda.c").write_text(DRIVER % (status, count))
        library = tmp_path / "libcuda.so.1"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "cuda.c"], check=True)
        return {"LD_LIBRARY_PATH": str(tmp_path)}

    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from octavo_testing.tiny_models import make

    folder = tmp_path_factory.mktemp("tiny")
    make("llama", folder)
    return str(folder)


def served(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The image's entry point."""
    command = [sys.executable, "-m", "octavo_engine", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"} | (env or {})
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.strip().splitlines()[-1]


def test_without_a_driver_the_start_ends_before_anything_is_downloaded():
    """The model does not exist, and is never asked for."""
    done = served("--model", "org/none", "--executor", "torch", "--device", "cuda", "--port", "0")
    assert done.returncode == 1
    assert last_words(done).startswith("octavo serve: no usable GPU: the NVIDIA driver's library, libcuda.so.1, is not")
    assert "GPU Operator" in last_words(done)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_images_own_promise_counts_as_the_flag():
    """The -cuda image sets OCTAVO_DEVICE; a raw Deployment has no flag of ours."""
    done = served("--model", "org/none", "--max-model-len", "2048", "--port", "0", env={"OCTAVO_DEVICE": "cuda"})
    assert (done.returncode, "no usable GPU: " in last_words(done)) == (1, True)


@pytest.mark.sample(status=[803])
@pytest.mark.parametrize(
    ("status", "count", "env", "message"),
    [
        (100, 0, {}, "the driver shows none and one is needed"),
        (0, 0, {"CUDA_VISIBLE_DEVICES": ""}, "shows none (CUDA_VISIBLE_DEVICES is '') and one is needed"),
        (803, 0, {}, "the NVIDIA driver does not start (cuInit returns 803)"),
    ],
)
def test_a_driver_without_a_device_is_reported(driver, status, count, env, message):
    done = served("--model", "org/none", "--device", "cuda", "--port", "0", env=driver(status, count) | env)
    assert (done.returncode, message in last_words(done)) == (1, True), done.stderr


def test_more_ranks_than_gpus_are_refused(driver):
    done = served("--model", "org/none", "--device", "cuda", "-tp", "4", "--port", "0", env=driver(0, 1))
    assert done.returncode == 1
    assert "no usable GPU: the driver shows 1 and 4 are needed" in done.stderr


@pytest.mark.slow
def test_a_torch_that_can_use_no_gpu_is_reported(driver, model):
    pytest.importorskip("torch")
    done = served("--model", model, "--load-format", "dummy", "--device", "cuda", "--port", "0", env=driver(0, 1))
    assert done.returncode == 1
    assert "no usable GPU: torch" in last_words(done)
    assert "-cuda" in last_words(done)


FOUND = {"torch": "2.15.0+cu130", "triton": "3.9.0"}


@pytest.mark.parametrize("device", [[], ["--device", "cuda"], ["--executor", "torch"]], ids=" ".join)
@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"torch": None, "triton": None}, "no torch and no triton"),
        ({"torch": None}, "no torch and triton 3.9.0"),
        ({"triton": None}, "torch 2.15.0+cu130 and no triton"),
        ({"torch": "2.9.1"}, "torch 2.9.1 and triton 3.9.0"),
        ({"triton": "3.5.0"}, "torch 2.15.0+cu130 and triton 3.5.0"),
        ({}, None),
    ],
)
def test_a_gpu_without_a_torch_and_a_triton_that_can_use_it_ends_the_start(monkeypatch, device, found, words):
    """Promised or not: the engine would serve on the CPU, ready and slow. The sentence has what is found and needed."""
    monkeypatch.setattr(gpus, "_count", lambda: 1)
    monkeypatch.setattr(gpus, "_installed", (FOUND | found).get)
    if words is None:
        require_device(parse(["m", *device]))
        return
    with pytest.raises(GpuUnavailableError) as caught:
        require_device(parse(["m", *device]))
    assert str(caught.value) == (
        f"no usable GPU: it takes torch 2.11 or newer and triton 3.6 or newer, and there is {words}; take the image whose "
        "tag ends in -cuda, or pip install torch triton; --device cpu runs on the CPU"
    )


def test_the_versions_that_a_gpu_needs_are_those_of_the_package():
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]["cuda"]
    for name, least in gpus.NEEDED.items():
        assert any(line.startswith(f"{name}>={'.'.join(map(str, least))}") for line in extra), name


@pytest.mark.parametrize("device", [["--device", "cpu"], ["--executor", "native"]], ids=" ".join)
def test_a_cpu_that_was_asked_for_needs_no_torch(monkeypatch, device):
    monkeypatch.setattr(gpus, "_count", lambda: 1)
    monkeypatch.setattr(gpus, "_installed", lambda name: None)
    require_device(parse(["m", *device]))


def test_without_a_promise_a_machine_without_a_gpu_is_no_error():
    require_device(parse(["m"]))
    require_device(parse(["m", "--device", "cpu"]))


NOT_STARTING = "the NVIDIA driver does not start (cuInit returns 802)"  # without its fabric manager, as an H100's


@pytest.mark.parametrize(
    ("files", "found", "arguments", "refused"),
    [
        (["nvidia0", "nvidiactl"], NOT_STARTING, [], True),
        (["nvidia1"], "libcuda.so.1 is not visible", ["--executor", "torch"], True),
        (["nvidia0"], NOT_STARTING, ["--device", "cpu"], False),
        (["nvidia0"], NOT_STARTING, ["--executor", "native"], False),
        (["nvidiactl", "nvidia-uvm"], NOT_STARTING, [], False),
        (["nvidia0"], 1, [], False),
        (["nvidia0"], 0, [], False),  # CUDA_VISIBLE_DEVICES hides it
    ],
)
def test_a_gpu_that_is_there_and_does_not_start_is_not_passed_over(
    monkeypatch, tmp_path, files, found, arguments, refused
):
    """Without a promise either: the engine would serve on the CPU, ready and slow."""
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(gpus, "DEVICE_FILES", tmp_path)
    monkeypatch.setattr(gpus, "_count", lambda: found)
    config = parse(["m", *arguments])
    if not refused:
        require_device(config)
        return
    with pytest.raises(GpuUnavailableError, match="no usable GPU: ") as caught:
        require_device(config)
    assert found in str(caught.value)
    assert "--device cpu runs on the CPU" in str(caught.value)


def test_a_driver_that_is_too_old_is_named_with_both_versions(driver):
    """That which torch is built for, and that which the driver serves."""
    pytest.importorskip("torch")
    script = (
        "import torch; from octavo_engine.executors.torch.device import device_of\n"
        "torch.version.cuda = '13.2'; torch.cuda.is_available = lambda: False; device_of('auto')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | driver(0, 1), capture_output=True, text=True, check=False
    )
    assert "is built for CUDA 13.2, and the driver serves versions up to 12.4; " in done.stderr


@pytest.mark.parametrize(
    ("gpu", "promised", "kind"), [(False, "auto", "cpu"), (True, "cpu", "cpu"), (True, "auto", None)]
)
def test_a_gpu_that_torch_can_not_use_is_not_passed_over(monkeypatch, gpu, promised, kind):
    """A torch for CPUs, or one that is newer than the driver serves."""
    device = pytest.importorskip("octavo_engine.executors.torch.device")
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "has_gpu", lambda: gpu)
    monkeypatch.setattr(device, "newest_cuda", lambda: "12.4")
    if kind is not None:
        assert device.device_of(promised).type == kind
        return
    with pytest.raises(GpuUnavailableError, match=r"no usable GPU: torch .*--device cpu runs on the CPU"):
        device.device_of(promised)


@pytest.mark.parametrize(("arguments", "times"), [([], 1), (["--device", "cpu"], 0), (["--executor", "native"], 0)])
def test_the_driver_is_asked_at_most_once_for_a_command_line(monkeypatch, arguments, times):
    """On a machine with many GPUs its answer takes seconds, which every start would wait for."""
    asked = []
    monkeypatch.setattr(device_defaults, "has_gpu", lambda: asked.append(1))
    parse(["m", *arguments])
    assert len(asked) == times


def test_help_says_what_is_used_here(driver):
    here = " ".join(served("--help").stdout.split())
    assert "--max-num-seqs N sequences per step; default: 256 on a GPU, 128 on a CPU" in here
    assert here.endswith(
        "Without flags, here: the CPU, --max-num-seqs 128, --max-num-batched-tokens 2048, --gpu-memory-utilization 0.92."
    )
    promised = " ".join(served("--help", env={"OCTAVO_DEVICE": "cuda"}).stdout.split())
    assert promised.endswith(
        "here: a GPU, --max-num-seqs 256, --max-num-batched-tokens 8192, --gpu-memory-utilization 0.9."
    )
    pytest.importorskip("torch")
    assert "here: a GPU" in " ".join(served("--help", env=driver(0, 1)).stdout.split())


@pytest.mark.parametrize(
    ("arguments", "variable", "defaults"),
    [
        ([], None, ON_CPU),
        (["--device", "cuda"], None, ON_GPU),
        ([], "cuda", ON_GPU),
        (["--device", "cpu"], "cuda", ON_CPU),
        (["--executor", "native"], "cuda", ON_CPU),
        (["-tp", "2", "--device", "cuda"], None, ON_GPU),
    ],
)
def test_limits_follow_the_device(monkeypatch, arguments, variable, defaults):
    monkeypatch.delenv("OCTAVO_DEVICE", raising=False)
    if variable is not None:
        monkeypatch.setenv("OCTAVO_DEVICE", variable)
    config = parse(["m", *arguments])
    assert config.scheduler.max_num_seqs == defaults.max_num_seqs
    assert config.scheduler.max_num_batched_tokens == defaults.max_num_batched_tokens
    assert config.cache.gpu_memory_utilization == defaults.gpu_memory_utilization


def test_the_tutorials_raw_deployment_means_what_it_meant(monkeypatch):
    """The tutorial's args run under the -cuda image's own promise, with nothing but the image replaced."""
    monkeypatch.setenv("OCTAVO_DEVICE", "cuda")
    mistral = [
        "--model",
        "mistralai/Mistral-7B-Instruct-v0.2",
        "--tensor-parallel-size",
        "1",
        "--max-model-len",
        "4096",
    ]
    for line in (mistral, ["--model", "microsoft/phi-2", "--max-model-len", "2048"]):
        config = parse(line)
        assert (config.executor.device, config.server.port, config.server.host) == ("cuda", 8000, None)
        assert (config.scheduler.max_num_seqs, config.cache.gpu_memory_utilization) == (256, 0.9)


def test_a_flag_wins_over_the_device():
    config = parse(["m", "--device", "cuda", "--max-num-seqs", "9", "--gpu-memory-utilization", "0.5"])
    assert (config.scheduler.max_num_seqs, config.cache.gpu_memory_utilization) == (9, 0.5)


@pytest.mark.parametrize(
    ("arguments", "variable", "message"),
    [
        (["--executor", "native", "--device", "cuda"], None, "leave one of them out"),
        ([], "gpu", "OCTAVO_DEVICE is 'gpu'; set it to one of auto, cuda, cpu"),
    ],
)
def test_devices_that_contradict_each_other_are_refused(monkeypatch, arguments, variable, message):
    if variable is not None:
        monkeypatch.setenv("OCTAVO_DEVICE", variable)
    with pytest.raises(ConfigError, match=message):
        parse(["m", *arguments])
