"""A manifest may carry its model's config.json: a plan of it then has the model."""

from __future__ import annotations

import json

from octavo_testing.planner_cases import A100_40, LLAMA_70B

from octavo_operator.api.v1alpha1 import MODEL_CONFIG
from octavo_operator.description.sources import annotated
from octavo_operator.verbs.plan_verb import main

MANIFEST = """apiVersion: octavo.dev/v1alpha1
kind: LLMService
metadata:
  name: llama
  annotations: {MODEL_CONFIG: 'CONFIG'}
spec:
  model: {uri: hf://meta-llama/Llama-2-70b-chat-hf}
  accelerator: {products: [PRODUCT]}
"""


def planned(tmp_path, config: str) -> int:
    text = MANIFEST.replace("MODEL_CONFIG", MODEL_CONFIG).replace("CONFIG", config).replace("PRODUCT", A100_40)
    (tmp_path / "llama.yaml").write_text(text)
    return main(["-f", str(tmp_path / "llama.yaml"), "--offline"])


def test_a_plan_takes_the_model_from_the_annotation(tmp_path, capsys):
    """Without a network and without a file, what does not fit is refused with the remedy."""
    assert planned(tmp_path, json.dumps(LLAMA_70B)) == 1
    assert "engine.tensorParallelSize: 4" in capsys.readouterr().out


def test_a_file_that_is_named_goes_first(tmp_path, capsys):
    """`--config` is the later word."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_70B | {"num_hidden_layers": 4}))
    planned(tmp_path, json.dumps(LLAMA_70B))
    capsys.readouterr()
    assert main(["-f", str(tmp_path / "llama.yaml"), "--config", str(tmp_path / "config.json")]) == 0
    assert "4 layers" in capsys.readouterr().out


def test_an_annotation_that_is_no_config_leaves_the_model_unknown(tmp_path, capsys):
    """Such an annotation blocks nothing, and the reason says what is wrong with it."""
    assert planned(tmp_path, "[]") == 0
    assert f"the annotation {MODEL_CONFIG} holds no JSON object" in " ".join(capsys.readouterr().out.split())
    assert annotated({}) is None
