"""Planner and engine read a model's files alike: one description, one verdict on a damaged file."""

from __future__ import annotations

import pytest
from gguf_files import llama_arrays, llama_metadata, write_gguf

from octavo_engine.config import ModelConfig
from octavo_engine.errors import ModelLoadError
from octavo_engine.weights import describe as engine
from octavo_engine.weights.source import resolve
from octavo_operator import description as planner
from octavo_operator.api.model import Model


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:2000],
        lambda whole: whole[:8] + b"\xff" * 8 + whole[16:],
        lambda whole: whole.replace(b"blk.0.attn_k.weight", b"blk.0.attn_q.weight"),
        lambda whole: whole.replace(b"llama.block_count", b"llama.head_counts"),
        lambda whole: whole[:-64],
        lambda whole: b"version https://git-lfs.github.com/spec/v1\n",
    ],
    ids=["cut", "counts", "tensor twice", "key missing", "data cut", "pointer"],
)
def test_a_file_that_the_engine_would_refuse_is_unknown_to_the_planner_for_the_same_reason(tmp_path, damage):
    path = write_gguf(tmp_path / "m.gguf", llama_arrays(), llama_metadata())
    path.write_bytes(damage(path.read_bytes()))
    why = planner.describe(Model.model_validate({"uri": f"file://{path}"}), offline=True).why_unknown
    config = ModelConfig(model=str(path), served_model_names=("m",))
    with pytest.raises(ModelLoadError) as refused:
        engine.describe(config, resolve(config, lambda *_: None))
    assert why == str(refused.value)


def test_both_describe_one_model_and_every_piece_of_it(tmp_path):
    arrays, names = llama_arrays(), list(llama_arrays())
    for number, part in enumerate((names[:5], names[5:])):
        metadata = (llama_metadata() if number == 0 else {}) | {"split.no": number, "split.count": 2}
        write_gguf(tmp_path / f"m-{number + 1:05}-of-00002.gguf", {name: arrays[name] for name in part}, metadata)
    described = planner.describe(Model.model_validate({"uri": f"file://{tmp_path}"}), offline=True)
    assert described.why_unknown == ""
    config = ModelConfig(model=str(tmp_path), served_model_names=("m",))
    assert described.spec == engine.describe(config, resolve(config, lambda *_: None))
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    why = planner.describe(Model.model_validate({"uri": f"file://{tmp_path}"}), offline=True).why_unknown
    assert "m-00002-of-00002.gguf can't be read" in why
