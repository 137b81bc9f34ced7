"""`octavo plan` prints what the manifests of the tutorial come to; machines read the same plan."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from octavo_testing.golden import assert_golden
from octavo_testing.planner_cases import LLAMA_70B, MISTRAL_7B, SMALL

from octavo_operator.settings import Settings
from octavo_operator.verbs.plan_verb import main

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "config" / "samples"
GOLDEN = Path(__file__).parent / "golden"
CASES = {
    "smollm2": ("smollm2.yaml", None, SMALL),
    "mistral": ("mistral.yaml", None, MISTRAL_7B),
    "mistral-autoscaled": ("mistral-autoscaled.yaml", None, MISTRAL_7B),
    "two-models-mistral": ("two-models.yaml", "vllm-mistral-7b", MISTRAL_7B),
    "two-models-llama": ("two-models.yaml", "vllm-llama-70b", LLAMA_70B),
    "chat": ("chat.yaml", None, SMALL),
    "phi-2": ("phi-2.yaml", None, None),
}


@pytest.fixture(autouse=True)
def _nothing_at_hand(tmp_path, monkeypatch):
    """No model of this machine's caches finds its way into a plan."""
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "octavo"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)


def run(*arguments: str, config: dict | None = None, tmp_path: Path) -> int:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
        arguments = (*arguments, "--config", str(tmp_path / "config.json"))
    return main([*arguments, "--offline"])


@pytest.mark.parametrize("case", CASES)
def test_a_samples_plan_reads_as_it_should(case, tmp_path, capsys):
    """OCTAVO_UPDATE_GOLDEN=1 rewrites the golden plans: look at the diff before committing it."""
    file, name, config = CASES[case]
    chosen = [] if name is None else ["--name", name]
    assert run("-f", str(SAMPLES / file), *chosen, config=config, tmp_path=tmp_path) == 0
    assert_golden(capsys.readouterr().out, GOLDEN / f"{case}.txt")


def test_every_sample_has_its_golden_plan():
    assert {path.name for path in SAMPLES.glob("*.yaml")} == {file for file, _, _ in CASES.values()}


def test_the_default_image_is_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = Settings().images
    assert images["octavo"] == f"octavo/engine:{version}"
    assert images["octavo-cuda"] == f"octavo/engine:{version}-cuda"


def test_a_typo_is_reported_with_a_suggestion_and_status_two(tmp_path, capsys):
    text = (SAMPLES / "mistral.yaml").read_text().replace("maxModelLen", "maxModelLenght")
    (tmp_path / "m.yaml").write_text(text)
    assert run("-f", str(tmp_path / "m.yaml"), tmp_path=tmp_path) == 2
    printed = capsys.readouterr().err
    assert "line 19: spec.engine.maxModelLenght: there is no such field; did you mean maxModelLen?" in printed


def test_a_model_that_does_not_fit_is_refused_with_the_remedy_and_status_one(tmp_path, capsys):
    text = (SAMPLES / "two-models.yaml").read_text().replace("tensorParallelSize: 4", "tensorParallelSize: 1")
    (tmp_path / "m.yaml").write_text(text)
    status = run("-f", str(tmp_path / "m.yaml"), "--name", "vllm-llama-70b", config=LLAMA_70B, tmp_path=tmp_path)
    assert status == 1
    printed = capsys.readouterr().out
    assert "refused   DoesNotFit: weights 128.5 GiB" in printed
    assert "remedy    set engine.tensorParallelSize: 4" in printed
    assert "short of 95.5" in printed
    assert "creates" not in printed


def test_a_file_of_several_services_prints_each(tmp_path, capsys):
    assert run("-f", str(SAMPLES / "two-models.yaml"), tmp_path=tmp_path) == 0
    printed = capsys.readouterr().out
    assert "llm-serving/vllm-mistral-7b\n" in printed
    assert "llm-serving/vllm-llama-70b\n" in printed


def test_other_documents_are_named_and_passed_over(tmp_path, capsys):
    extra = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n"
    (tmp_path / "m.yaml").write_text((SAMPLES / "smollm2.yaml").read_text() + extra)
    assert run("-f", str(tmp_path / "m.yaml"), tmp_path=tmp_path) == 0
    assert "passed over Deployment web" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_machines_read_the_whole_plan(output, tmp_path, capsys):
    run("-f", str(SAMPLES / "mistral.yaml"), "-o", output, config=MISTRAL_7B, tmp_path=tmp_path)
    plan = yaml.safe_load(capsys.readouterr().out)
    assert plan["fit"]["state"] == "True"
    assert plan["fit"]["budget"]["sequences"] == 40
    assert plan["engine"]["model"] == "mistralai/Mistral-7B-Instruct-v0.2"
    assert plan["lifecycle"]["startup"]["path"] == "/health"
    assert plan["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert {child["kind"] for child in plan["children"]} >= {"Deployment", "Service"}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no JSON object"),
        ('{"architectures": ["X"]}', "architecture 'X' is not supported"),
    ],
)
def test_a_config_that_was_named_and_is_wrong_is_reported(content, found, tmp_path, capsys):
    (tmp_path / "c.json").write_text(content)
    assert run("-f", str(SAMPLES / "mistral.yaml"), "--config", str(tmp_path / "c.json"), tmp_path=tmp_path) == 2
    assert found in capsys.readouterr().err


def test_planning_is_quick_and_imports_neither_kubernetes_nor_a_server():
    code = (
        "import sys; from octavo_operator.verbs.plan_verb import main;"
        f"main(['-f', {str(SAMPLES / 'mistral.yaml')!r}, '--offline']);"
        "print(sorted({'kopf', 'kubernetes', 'aiohttp', 'rich', 'torch', 'numpy', 'octavo_engine'} & set(sys.modules)))"
    )
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    after = os.times()
    assert done.stdout.splitlines()[-1] == "[]"
    # Of processor time, 0.35 s on a fast machine: the time that passes depends on other processes.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 3
