"""`octavo up` on a machine with GPUs, which a driver's library made here pretends."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from up_runs import manifest

from octavo_operator.errors import LocalError
from octavo_operator.local.machine_gpus import divide_gpus

DRIVER = """
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 4; return 0; }
"""
ON_GPUS = manifest().replace("vendor: cpu", "vendor: nvidia, products: [NVIDIA-L4]")


@pytest.fixture
def four_gpus(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine that has four."""
    (tmp_path / "driver.c").write_text(DRIVER)
    subprocess.run(["cc", "-shared", "-o", "libcuda.so.1", "driver.c"], cwd=tmp_path, check=True)
    return {"LD_LIBRARY_PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "4,5,6,7"}


def test_a_replica_gets_the_gpus_that_its_ranks_need(up, four_gpus):
    run = up(ON_GPUS.replace("maxModelLen", "tensorParallelSize: 2, maxModelLen"), env=four_gpus)
    run.wait_for("svc answers at")
    assert "it runs on NVIDIA GPUs of this machine: 2 of 4 a replica" in run.log.read_text()
    about = run.about()
    assert about["gpus"] == "4,5"
    assert "--tensor-parallel-size" in about["rest"]


def test_a_manifest_that_names_no_accelerator_takes_a_gpu_where_there_is_one(up, four_gpus):
    run = up(manifest().replace("  accelerator: {vendor: cpu}\n", ""), env=four_gpus)
    run.wait_for("svc answers at")
    assert run.about()["gpus"] == "4"


@pytest.mark.slow
@pytest.mark.parametrize(("text", "flags"), [(manifest(), []), (ON_GPUS, ["--cpu"])])
def test_an_engine_on_the_cpu_sees_no_gpu(up, four_gpus, text, flags):
    run = up(text, *flags, env=four_gpus)
    run.wait_for("svc answers at")
    assert run.about()["gpus"] == ""


@pytest.mark.parametrize(
    ("size", "replicas", "message"),
    [
        (8, 1, "svc asks for 8 NVIDIA GPUs, and octavo up finds 4; --cpu runs it"),
        (2, 3, "3 replicas of 2 NVIDIA GPUs need 6, and this machine has 4; --replicas 2 fits"),
    ],
)
def test_too_few_gpus_are_reported(up, four_gpus, size, replicas, message):
    text = ON_GPUS.replace("maxModelLen", f"tensorParallelSize: {size}, maxModelLen")
    run = up(text, "--replicas", str(replicas), env=four_gpus)
    assert run.process.wait(20) == 1
    assert message in run.log.read_text()


def test_replicas_share_out_the_gpus():
    assert divide_gpus("abcd", 2, 2) == [{"CUDA_VISIBLE_DEVICES": "a,b"}, {"CUDA_VISIBLE_DEVICES": "c,d"}]
    assert divide_gpus((), 2, 0) == [{"CUDA_VISIBLE_DEVICES": ""}] * 2
    with pytest.raises(LocalError, match="2 replicas of 1 NVIDIA GPU need 2, and this machine has 1; --replicas 1"):
        divide_gpus("a", 2, 1)
