"""Adapters over HTTP, as vLLM serves them: named as the model, listed with their parent, loaded and unloaded at run time."""

from __future__ import annotations

import threading

import openai
import pytest
from octavo_testing.adapters import write_config
from octavo_testing.served import Served
from openai import OpenAI

PROMPT = "the quick brown fox"
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two adapters' folders."""
    root = tmp_path_factory.mktemp("adapters")
    for name in ("sql", "poems", "other"):
        write_config(root / name)
    return root


@pytest.fixture(scope="module")
def adapted(fake_model, folders):
    """A server with one adapter from the start, which may load two more."""
    modules = f'{{"name": "sql", "path": "{folders}/sql", "base_model_name": "base"}}'
    flags = ("--served-model-name", "fake", "--enable-lora", "--lora-modules", modules, "--max-cpu-loras", "3")
    env = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    with Served(fake_model, *flags, env=env, step_seconds=0.01) as server:
        yield server


@pytest.fixture(scope="module")
def client(adapted):
    with OpenAI(base_url=f"{adapted.url}/v1", api_key="unneeded", max_retries=0) as client:
        yield client


def text(client, model: str, **fields) -> str:
    answer = client.completions.create(model=model, prompt=PROMPT, seed=1, max_tokens=8, **fields)
    assert answer.model == model
    return answer.choices[0].text


@pytest.fixture
def poems(adapted, folders):
    """A second adapter, loaded for one test."""
    status, answer, _ = adapted.post(LOAD, {"lora_name": "poems", "lora_path": f"{folders}/poems"})
    assert (status, answer) == (200, "Success: LoRA adapter 'poems' added successfully.")
    yield "poems"
    adapted.post(UNLOAD, {"lora_name": "poems"})


def test_the_models_name_chooses_the_adapter_on_every_endpoint(adapted, client):
    """Its answers differ from the base model's, by any endpoint alike."""
    base, own = text(client, "fake"), text(client, "sql")
    assert own != base
    messages = [{"role": "user", "content": "hello"}]

    def chat(model: str) -> str:
        return (
            client.chat.completions.create(model=model, messages=messages, seed=1, max_tokens=8)
            .choices[0]
            .message.content
        )

    def response(model: str) -> str:
        return client.responses.create(model=model, input="hello", max_output_tokens=8, temperature=0).output_text

    assert chat("sql") != chat("fake")
    assert response("sql") != response("fake")
    body = {"messages": messages, "max_tokens": 8, "temperature": 0}
    ours, theirs = (adapted.post("/v1/messages", {"model": m, **body})[1]["content"] for m in ("sql", "fake"))
    assert ours != theirs
    tokens = [adapted.post("/tokenize", {"model": model, "prompt": PROMPT})[1]["tokens"] for model in ("sql", "fake")]
    assert tokens[0] == tokens[1], "the tokenizer is the model's"


def test_models_lists_adapters_with_their_parent_and_root(client, folders, poems):
    cards = {card.id: card for card in client.models.list()}
    assert list(cards) == ["fake", "sql", "poems"]
    assert (cards["sql"].parent, cards["sql"].root) == ("base", f"{folders}/sql")
    assert (cards["poems"].parent, cards["poems"].root) == ("fake", f"{folders}/poems")
    assert cards["fake"].parent is None
    assert client.models.retrieve("sql").parent == "base"


def test_an_unloaded_adapter_is_unknown_and_what_has_begun_with_it_is_finished(adapted, client, folders, poems):
    """A stream goes on to its last token after the adapter was unloaded."""
    whole = text(client, poems, stream=False)
    stream = client.completions.create(model=poems, prompt=PROMPT, seed=1, max_tokens=8, stream=True)
    first = next(iter(stream)).choices[0].text
    status, answer, _ = adapted.post(UNLOAD, {"lora_name": "poems"})
    assert (status, answer) == (200, "Success: LoRA adapter 'poems' removed successfully.")
    assert first + "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == whole
    with pytest.raises(openai.NotFoundError, match="The model `poems` does not exist"):
        text(client, "poems")


def test_loading_in_place_changes_what_a_name_answers(adapted, client, folders, poems):
    """The fake engine draws other tokens for each adapter that it was ever given, so nothing of the old one is left."""
    before = text(client, poems)
    body = {"lora_name": poems, "lora_path": f"{folders}/other"}
    status, answer, _ = adapted.post(LOAD, body)
    assert status == 400
    assert answer["error"]["type"] == "InvalidUserInput"
    assert (
        "has already been loaded. If you want to load the adapter in place, set 'load_inplace'"
        in answer["error"]["message"]
    )
    assert adapted.post(LOAD, body | {"load_inplace": True})[0] == 200
    assert text(client, poems) != before
    assert client.models.retrieve(poems).root == f"{folders}/other"


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "words"),
    [
        (LOAD, {"lora_name": "x"}, 400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided."),
        (LOAD, {"lora_name": None, "lora_path": "/x"}, 400, "InvalidUserInput", "must be provided"),
        (LOAD, {"lora_name": "x", "lora_path": "/nowhere"}, 404, "NotFoundError", "No adapter found for /nowhere"),
        (LOAD, {"lora_name": "fake", "lora_path": "/x"}, 400, "InvalidUserInput", "the model's own name"),
        (LOAD, {"lora_name": 7, "lora_path": "/x"}, 400, "BadRequestError", "lora_name"),
        (UNLOAD, {}, 400, "InvalidUserInput", "'lora_name' needs to be provided to unload a LoRA adapter."),
        (UNLOAD, {"lora_name": "x"}, 404, "NotFoundError", "The lora adapter 'x' cannot be found."),
    ],
)
def test_what_cannot_be_loaded_is_refused_as_by_vllm(adapted, path, body, status, kind, words):
    got, answer, _ = adapted.post(path, body)
    assert (got, answer["error"]["type"]) == (status, kind)
    assert words in answer["error"]["message"]


def test_adapters_beyond_the_bound_are_refused_with_the_flag(adapted, folders, poems):
    assert adapted.post(LOAD, {"lora_name": "third", "lora_path": f"{folders}/other"})[0] == 200
    status, answer, _ = adapted.post(LOAD, {"lora_name": "fourth", "lora_path": f"{folders}/other"})
    assert status == 400
    assert "--max-cpu-loras" in answer["error"]["message"]
    assert adapted.post(UNLOAD, {"lora_name": "third"})[0] == 200


def test_the_metric_names_the_adapters_of_requests(adapted, client):
    """Its labels are names, as vLLM's are."""
    stream = client.completions.create(model="sql", prompt=PROMPT, max_tokens=200, stream=True)
    next(iter(stream))
    assert adapted.metric("vllm:lora_requests_info", max_lora="1") > 0
    adapted.wait_for_metric("vllm:num_requests_running", 1)
    _, exposition, _ = adapted.get("/metrics")
    assert 'running_lora_adapters="sql"' in exposition
    stream.close()


def test_many_clients_load_and_unload_while_others_stream(adapted, client, folders):
    """Every stream of the base model is whole, and the adapter is gone in the end."""
    whole = text(client, "fake")
    texts = []

    def stream() -> None:
        texts.extend(text(client, "fake") for _ in range(5))

    threads = [threading.Thread(target=stream) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        assert adapted.post(LOAD, {"lora_name": "poems", "lora_path": f"{folders}/poems"})[0] == 200
        assert text(client, "poems")
        assert adapted.post(UNLOAD, {"lora_name": "poems"})[0] == 200
    for thread in threads:
        thread.join()
    assert texts == [whole] * 15
    assert [card.id for card in client.models.list()] == ["fake", "sql"]


def test_without_the_switch_nothing_is_loaded(served, folders):
    """A server without adapters has no such endpoints."""
    assert served.post(LOAD, {"lora_name": "x", "lora_path": f"{folders}/sql"})[0] == 404
    assert served.post(UNLOAD, {"lora_name": "x"})[0] == 404


def test_an_adapter_that_cannot_be_read_ends_the_start_with_one_sentence(fake_model, folders):
    write_config(folders / "dora", use_dora=True)
    with Served(fake_model, "--lora-modules", f"dora={folders}/dora", wait=False) as server:
        assert server.wait() == 1
        assert "use_dora" not in server.output
        assert "the adapter has DoRA, which is not served; merge the adapter into its model" in server.output
