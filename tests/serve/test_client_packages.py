"""LangChain, LlamaIndex, LiteLLM, and OpenAI's JavaScript package work against a real model unchanged.

Each program in `tests/data/clients` chats, streams, calls tools, takes structured output and asks for embeddings as its
package's users do, and ends with an assertion that failed or with "done".
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from octavo_testing.client_packages import modules_with, python_with
from octavo_testing.served import TINY_CONFIG, Served, write_model

pytestmark = pytest.mark.slow
PROGRAMS = Path(__file__).parents[1] / "data/clients"
SECONDS = 900


@pytest.fixture(scope="module")
def chatting(qwen_coder_small):
    flags = ("--served-model-name", "model", "--max-model-len", "8192", "--max-num-seqs", "8")
    with Served(qwen_coder_small.model, *flags, "--kv-cache-memory-bytes", "400000000", real=True) as server:
        yield server


@pytest.fixture(scope="module")
def embedding(tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("embedder"))
    (folder / "config.json").write_text(json.dumps(TINY_CONFIG))
    flags = ("--load-format", "dummy", "--runner", "pooling", "--served-model-name", "embedder")
    with Served(folder, *flags, real=True) as server:
        yield server


def run(command: list[str | Path], chatting: Served, embedding: Served, folder: Path) -> None:
    """Run a program, which reaches loopback alone: a proxy that answers nothing stands before all else."""
    proxy = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    keep = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment = {**keep, **proxy, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HOME": str(folder)}
    environment["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it is fetched
    done = subprocess.run(
        [*command, chatting.url, embedding.url],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env=environment,
        cwd=folder,
    )
    assert done.stdout.endswith("done\n"), done.stderr[-3000:]


@pytest.mark.timeout(SECONDS * 2)
@pytest.mark.parametrize("name", ["langchain", "llama_index", "litellm"])
def test_a_python_package_works_unchanged(name, chatting, embedding, tmp_path):
    run([python_with(), PROGRAMS / f"{name}_client.py"], chatting, embedding, tmp_path)


@pytest.mark.timeout(SECONDS * 2)
def test_the_openai_package_for_javascript_works_unchanged(chatting, embedding, tmp_path):
    shutil.copy(PROGRAMS / "openai_client.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(modules_with() / "node_modules")
    run(["node", tmp_path / "openai_client.mjs"], chatting, embedding, tmp_path)
