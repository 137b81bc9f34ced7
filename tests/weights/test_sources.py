"""A user's words for a model are taken as its source, or refused in a sentence."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from octavo_testing.gguf_files import llama_arrays, llama_metadata, write_gguf
from tokenizers import Tokenizer, decoders, models

from octavo_engine.config import ModelConfig, ModelFiles
from octavo_engine.errors import ModelLoadError
from octavo_engine.text.tokenizer import load_tokenizer
from octavo_engine.weights.generation_config import GenerationDefaults, read_generation_defaults
from octavo_engine.weights.model_spec import read_config
from octavo_engine.weights.source import resolve


def find(model: object, **fields) -> ModelFiles:
    return resolve(ModelConfig(model=str(model), served_model_names=("m",), **fields), lambda *_: None)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("hello")
    (tmp_path / "model.safetensors").write_bytes(b"s")
    return tmp_path


def test_a_folder_gives_its_config_weights_tokenizer_and_template(folder):
    files = find(folder)
    assert files.config == folder / "config.json"
    assert files.weights == (folder / "model.safetensors",)
    assert files.tokenizer == folder / "tokenizer.json"
    assert files.chat_template == folder / "chat_template.jinja"
    assert files.generation_config is None
    assert find(folder.as_uri()) == files


def test_a_gguf_file_is_a_model_by_itself_whatever_lies_beside_it(folder):
    gguf = folder / "m.gguf"
    gguf.write_bytes(b"g")
    files = find(gguf)
    assert (files.weights, files.weights_format, files.config, files.tokenizer) == ((gguf,), "gguf", None, None)
    assert find(gguf.as_uri()) == files
    assert find(folder, file="m.gguf") == files
    assert find(folder, load_format="gguf") == files
    assert find(folder).weights_format == "safetensors"


def test_the_load_format_chooses_between_what_a_folder_holds(folder):
    assert find(folder, load_format="dummy").weights == ()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"there are no weights here .* pickled ones \(\.bin, \.pt\) are not read"):
        find(folder)
    with pytest.raises(ModelLoadError, match="0 GGUF models lie here"):
        find(folder, load_format="gguf")


def test_one_of_several_gguf_files_must_be_named(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"g")
    with pytest.raises(
        ModelLoadError, match=r"2 GGUF models lie here; name one with --file \(one of a\.gguf, b\.gguf\)"
    ):
        find(tmp_path)
    assert find(tmp_path, file="b.gguf").weights == (tmp_path / "b.gguf",)
    for wrong in ("c.gguf", "../x.gguf"):
        with pytest.raises(ModelLoadError, match="there is no "):
            find(tmp_path, file=wrong)


def test_the_pieces_of_a_split_gguf_are_found_from_any_of_them(tmp_path):
    pieces = [tmp_path / f"m-{i:05}-of-00002.gguf" for i in (1, 2)]
    for piece in pieces:
        piece.write_bytes(b"g")
    assert find(pieces[1]).weights == find(tmp_path).weights == tuple(pieces)
    pieces[1].unlink()
    with pytest.raises(ModelLoadError, match=r"m-00002-of-00002\.gguf: this piece of the model is missing"):
        find(pieces[0])


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": "../x"}}', '{"weight_map": {"a": 3}}']
)
def test_a_broken_index_is_refused_by_its_name(folder, content):
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelLoadError, match=r"model\.safetensors\.index\.json: "):
        find(folder)


def test_a_folder_without_a_config_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ModelLoadError, match=r"config\.json is missing, so the folder doesn't say what model it holds"):
        find(folder)


@pytest.mark.parametrize("scheme", ["s3", "gs", "oci", "http", "https", "pvc"])
def test_a_scheme_that_is_not_served_yet_says_so_and_what_to_do(scheme):
    with pytest.raises(ModelLoadError, match=f"does not fetch {scheme}:// by itself; put the model into a folder"):
        find(f"{scheme}://bucket/model")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("ftp://host/model", "ftp:// is unknown"),
        ("/no/such/folder", "/no/such/folder: there is no such file or folder"),
        ("./no-such", "there is no such file or folder"),
        ("no/such.gguf", "there is no such file or folder"),
        ("just-a-word", "a model of the hub is written ORG/NAME, a package package://NAME"),
        ("file:///no/such", "/no/such: there is no such file or folder"),
        (__file__, r"it isn't a GGUF file: name the model's folder, or a GGUF file"),
    ],
)
def test_what_leads_nowhere_is_said_in_one_sentence(model, message):
    with pytest.raises(ModelLoadError, match=message):
        find(model)


def test_a_local_model_is_found_without_importing_what_downloads_need(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"g")
    code = (
        "import sys\n"
        "from octavo_engine.config import ModelConfig\n"
        "from octavo_engine.weights.source import resolve\n"
        f"resolve(ModelConfig(model={str(tmp_path / 'm.gguf')!r}, served_model_names=('m',)), print)\n"
        "import json; print(json.dumps(sorted(sys.modules)))\n"
    )
    paths = [p for p in sys.path if p]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{code}"], capture_output=True, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"huggingface_hub", "torch", "numpy", "ssl", "urllib.request", "packaging"}


@pytest.mark.parametrize("name", ["model", "M.GGUF", "sha256-0123", "m.bin"])
@pytest.mark.parametrize("load_format", ["auto", "gguf"])
def test_a_gguf_file_is_known_by_its_content_whatever_its_name(tmp_path, name, load_format):
    path = write_gguf(tmp_path / name, llama_arrays(), llama_metadata())
    assert find(path, load_format=load_format).weights == (path,)
    if name != "m.bin":
        assert find(tmp_path, load_format=load_format, file=name).weights == (path,)


def test_the_pieces_of_a_file_in_capitals_are_found_and_impossible_numbers_are_no_pieces(tmp_path):
    pieces = [tmp_path / f"M-0000{number}-of-00002.GGUF" for number in (1, 2)]
    for piece in pieces:
        piece.write_bytes(b"GGUF")
    assert find(tmp_path).weights == tuple(pieces)
    odd = tmp_path / "odd-00001-of-00000.gguf"
    odd.write_bytes(b"GGUF")
    assert find(odd).weights == (odd,)


def test_a_byte_order_mark_is_no_part_of_any_json_file(tmp_path):
    mark = b"\xef\xbb\xbf"
    config = {"architectures": ["LlamaForCausalLM"], "eos_token_id": 1}
    shard = "model-00001-of-00001.safetensors"
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer.decoder = decoders.ByteLevel()
    files = {
        "config.json": json.dumps(config),
        "generation_config.json": '{"temperature": 0.5}',
        "model.safetensors.index.json": json.dumps({"weight_map": {"a": shard}}),
        "tokenizer.json": tokenizer.to_str(),
        "tokenizer_config.json": '{"eos_token": "b", "chat_template": "from the config"}',
        "chat_template.json": '{"chat_template": "of its own"}',
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(mark + content.encode())
    (tmp_path / shard).write_bytes(b"")
    found = find(tmp_path)
    assert found.weights == (tmp_path / shard,)
    assert read_config(found) == config
    model = ModelConfig(model=str(tmp_path), served_model_names=("m",))
    assert read_generation_defaults(model, found) == GenerationDefaults({"temperature": 0.5}, eos_token_ids=(1,))
    loaded = load_tokenizer(found)
    assert (loaded.eos_token_ids, loaded.chat_templates) == ((1,), {"default": "of its own"})
    (tmp_path / "chat_template.jinja").write_bytes(mark + b"{{ x }}")
    assert load_tokenizer(find(tmp_path)).chat_templates == {"default": "{{ x }}"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "generation_config.json"])
def test_a_git_lfs_pointer_is_named_as_one(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n")
    model = ModelConfig(model=str(tmp_path), served_model_names=("m",))
    with pytest.raises(ModelLoadError, match=rf"{name}: it is a Git LFS pointer, .*git lfs pull"):
        read_generation_defaults(model, find(tmp_path))


def test_a_folder_that_can_not_be_listed_is_said_in_one_sentence(tmp_path, monkeypatch):
    """A volume of another user, as pods with an arbitrary uid meet it."""

    def refuse(_folder: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(ModelLoadError, match="it can't be listed: Permission denied"):
        find(tmp_path)
