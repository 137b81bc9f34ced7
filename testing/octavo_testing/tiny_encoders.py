"""Small random models that pool: encoders, decoders as embedders and rerankers; every parameter is random."""

from __future__ import annotations

import dataclasses
import json
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.messages import PoolingRequest
from octavo_testing.tiny_models import SIZES, randomize

VOCABULARY = SIZES["vocab_size"]
WIDE = {"hidden_size": 96}  # heads of 16 elements
HAS_POOLER = {"BertModel", "RobertaModel", "XLMRobertaModel"}
LABELS = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
ONE_LABEL = {"id2label": {0: "relevant"}, "label2id": {"relevant": 0}}
# As its authors publish it; transformers itself scales by a base alone.
MODERNBERT = WIDE | {"local_attention": 18, "global_attn_every_n_layers": 2, "eos_token_id": 2, "cls_token_id": 1}
GEMMA = {
    "sliding_window": 18,
    "use_bidirectional_attention": True,
    "query_pre_attn_scalar": 16,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}


@dataclass(frozen=True, slots=True)
class TinyEncoder:
    """transformers' class and the fields of its config beside those of SIZES; `modules` as sentence-transformers has them."""

    model: str
    fields: dict[str, Any]
    pooling: str = "cls"
    dense: tuple[int, ...] = ()
    modules: bool = False


MODELS = {
    "bert": TinyEncoder("BertModel", WIDE),
    "bert with mean pooling": TinyEncoder("BertModel", WIDE, "mean", modules=True),
    "bert with max pooling": TinyEncoder("BertModel", WIDE | {"hidden_act": "gelu_new"}, "max", modules=True),
    "bert classifier": TinyEncoder("BertForSequenceClassification", WIDE | LABELS),
    "roberta": TinyEncoder("RobertaModel", WIDE | {"type_vocab_size": 1}, "mean", modules=True),
    "roberta classifier": TinyEncoder("RobertaForSequenceClassification", WIDE | ONE_LABEL),
    "xlm-roberta": TinyEncoder("XLMRobertaModel", WIDE | {"type_vocab_size": 1, "pad_token_id": 1}),
    "xlm-roberta reranker": TinyEncoder("XLMRobertaForSequenceClassification", WIDE | ONE_LABEL | {"pad_token_id": 1}),
    "modernbert": TinyEncoder("ModernBertModel", MODERNBERT),
    "modernbert with biases": TinyEncoder(
        "ModernBertModel",
        MODERNBERT | {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "local_attention": 7},
        "mean",
        modules=True,
    ),
    "modernbert reranker": TinyEncoder("ModernBertForSequenceClassification", MODERNBERT | ONE_LABEL),
    "modernbert classifier": TinyEncoder(
        "ModernBertForSequenceClassification",
        MODERNBERT | LABELS | {"classifier_pooling": "mean", "classifier_bias": True, "norm_bias": True},
    ),
    "nomicbert": TinyEncoder("NomicBertModel", WIDE, "mean", modules=True),
    "gte": TinyEncoder("GteModel", WIDE),
    "gte without token types": TinyEncoder("GteModel", WIDE | {"type_vocab_size": 0}),
    "gte reranker": TinyEncoder("GteForSequenceClassification", WIDE | ONE_LABEL),
    "qwen 3 embedder": TinyEncoder("Qwen3Model", {}, "last", modules=True),
    "qwen 3 classifier": TinyEncoder("Qwen3ForSequenceClassification", LABELS, "last"),
    "llama reranker": TinyEncoder("LlamaForSequenceClassification", ONE_LABEL, "last"),
    "embeddinggemma": TinyEncoder("Gemma3TextModel", GEMMA, "mean", (72, 48), modules=True),
}


def config_of(kind: str) -> dict[str, Any]:
    """The config.json of the model called `kind` in MODELS."""
    return _config_of(kind).to_dict() | {"architectures": [MODELS[kind].model]}


def _config_of(kind: str) -> Any:
    tiny = MODELS[kind]
    config_class = getattr(transformers, tiny.model).config_class
    known = {each.name for each in dataclasses.fields(config_class)} | set(config_class.attribute_map)
    return config_class(**{name: value for name, value in SIZES.items() if name in known} | tiny.fields)


def make(kind: str, folder: Path) -> Any:
    """Write the model called `kind` in MODELS to `folder` as it would be published; transformers' own, in float32."""
    tiny = MODELS[kind]
    torch.manual_seed(11)
    model_class, config = getattr(transformers, tiny.model), _config_of(kind)
    bare = {"add_pooling_layer": False} if tiny.model in HAS_POOLER else {}
    model = model_class(config, **bare).float().eval()
    randomize(model)
    model.save_pretrained(folder)
    if tiny.modules:
        write_modules(folder, tiny.pooling, config.hidden_size, tiny.dense)
    return model


def write_modules(folder: Path, pooling: str, width: int, dense: tuple[int, ...] = (), normalize: bool = True) -> None:
    """The files of sentence-transformers for a model in `folder`: pooling, dense layers without biases, Normalize."""
    mode = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "last": "lasttoken"}[pooling]
    listed = [("", "Transformer"), ("1_Pooling", "Pooling")]
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": width, f"pooling_mode_{mode}": True})
    )
    for number, size in enumerate(dense, 2):
        name = f"{number}_Dense"
        (folder / name).mkdir()
        settings = {
            "in_features": width,
            "out_features": size,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        (folder / name / "config.json").write_text(json.dumps(settings))
        save_file({"linear.weight": torch.randn(size, width) * 0.2}, folder / name / "model.safetensors")
        listed.append((name, "Dense"))
        width = size
    if normalize:
        listed.append((f"{len(listed)}_Normalize", "Normalize"))
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
                for i, (path, name) in enumerate(listed)
            ]
        )
    )


def reference(kind: str, model: Any, folder: Path) -> Callable[[list[int]], torch.Tensor]:
    """A function that gives what transformers does for the token ids of one prompt: the scores, or the pooled vector before its length is divided out."""
    tiny = MODELS[kind]

    @torch.inference_mode()
    def compute(token_ids: list[int]) -> torch.Tensor:
        output = model(torch.tensor([token_ids]), attention_mask=torch.ones(1, len(token_ids), dtype=torch.long))
        if hasattr(output, "logits"):
            return output.logits[0]
        states = output.last_hidden_state[0]
        match tiny.pooling:
            case "cls":
                pooled = states[0]
            case "last":
                pooled = states[-1]
            case "max":
                pooled = states.max(0).values
            case _:
                pooled = states.mean(0)
        for number in range(2, 2 + len(tiny.dense)):
            pooled = load_file(folder / f"{number}_Dense" / "model.safetensors")["linear.weight"] @ pooled
        return pooled

    return compute


def pool(core: EngineCore, prompts: Sequence[Sequence[int]], second_segments: Sequence[int] = ()) -> list[list[float]]:
    """The vector of each prompt, once the core has pooled all of them; the books are checked after every step."""
    for i, prompt in enumerate(prompts):
        core.add(
            PoolingRequest(
                request_id=str(i),
                prompt_token_ids=list(prompt),
                arrival_time=0.0,
                second_segment=second_segments[i] if second_segments else 0,
            )
        )
    vectors: dict[str, list[float]] = {}
    while core.has_work:
        for output in core.step():
            assert output.error is None, output.error
            assert output.finish_reason == "stop"
            assert output.pooled is not None
            vectors[output.request_id] = list(array("f", output.pooled))
        core.check()
    return [vectors[str(i)] for i in range(len(prompts))]
