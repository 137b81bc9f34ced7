"""The weights decide whether the head is tied to the embedding: one that the file has is used."""

from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
from octavo_testing.engine_runs import engine_config, generate, request, running_core
from octavo_testing.gguf_files import HIDDEN, VOCAB, llama_arrays, llama_metadata, write_gguf
from octavo_testing.tiny_models import make
from safetensors.numpy import load_file, save_file

from octavo_engine.config import ModelConfig
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
PROMPT = [5, 9, 77, 31, 8]


def logprobs(path, executor):
    config = engine_config(ModelConfig(model=str(path), served_model_names=("m",), dtype="float32"), executor)
    with running_core(config) as core:
        result = generate(core, [request("r", PROMPT, 6, prompt_logprobs=0, logprobs=0)])["r"]
    assert result.error is None
    return [entry.logprob for entry in (*(result.prompt_logprobs or [])[1:], *result.logprobs)]


def spec_of(path):
    config = ModelConfig(model=str(path), served_model_names=("m",))
    return read_spec(config, resolve(config, lambda *_: None))


def rewritten(folder, says_tied, head):
    """The model of `folder` whose config says so, with `head` in its weights."""
    tensors = {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if name != HEAD}
    if head is not None:
        tensors[HEAD] = tensors[EMBEDDING].copy() if isinstance(head, str) else head
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": says_tied}))
    return folder


@pytest.fixture
def folder(tmp_path):
    make("llama", tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_head_in_the_weights_is_used_whatever_the_config_says(folder, executor_name, caplog):
    own = load_file(folder / "model.safetensors")[HEAD]
    expected = logprobs(folder, executor_name)
    assert not caplog.text
    rewritten(folder, says_tied=True, head=own)
    assert logprobs(folder, executor_name) == expected
    assert "says that the head is tied to the embedding, and the weights hold another, lm_head.weight" in caplog.text


def test_without_a_head_the_embedding_serves_whatever_the_config_says(folder, executor_name, caplog):
    rewritten(folder, says_tied=True, head=None)
    expected = logprobs(folder, executor_name)
    assert not caplog.text
    rewritten(folder, says_tied=False, head=None)
    assert logprobs(folder, executor_name) == expected
    assert "says that the head is not tied, and the weights hold no lm_head.weight" in caplog.text


@pytest.mark.parametrize("says_tied", [True, False])
def test_a_head_that_is_a_copy_of_the_embedding_takes_no_memory(folder, says_tied, caplog):
    rewritten(folder, says_tied=says_tied, head=None)
    alone = spec_of(folder).weight_bytes()
    caplog.clear()
    rewritten(folder, says_tied=says_tied, head="a copy")
    assert (spec_of(folder).tied_head, spec_of(folder).weight_bytes()) == (True, alone)
    assert not caplog.text
    almost = load_file(folder / "model.safetensors")[HEAD]
    almost[-1, -1] += 1
    rewritten(folder, says_tied=says_tied, head=almost)
    assert not spec_of(folder).tied_head


def test_a_head_in_a_gguf_file_is_used(tmp_path, executor_name):
    arrays, metadata = llama_arrays(), llama_metadata()
    tied = logprobs(write_gguf(tmp_path / "tied.gguf", arrays, metadata), executor_name)
    values = np.random.default_rng(9).normal(0, 0.1, (VOCAB, HIDDEN)).astype(np.float32)
    head = (gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0), gguf.GGMLQuantizationType.Q8_0)
    path = write_gguf(tmp_path / "own.gguf", arrays | {"output.weight": head}, metadata)
    assert not spec_of(path).tied_head
    assert logprobs(path, executor_name) != pytest.approx(tied, abs=0.01)
    arrays["output.weight"] = arrays["token_embd.weight"]
    assert logprobs(write_gguf(tmp_path / "copy.gguf", arrays, metadata), executor_name) == pytest.approx(
        tied, abs=1e-4
    )
