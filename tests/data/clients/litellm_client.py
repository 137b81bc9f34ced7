"""Calls of LiteLLM as people make them, against the URL in the first argument: as an OpenAI server, as vLLM, and as Anthropic."""

import json
import sys
from typing import Literal

import litellm
from pydantic import BaseModel

URL, EMBEDDINGS = sys.argv[1:]
ASKED = [{"role": "user", "content": "How is the weather in Lima?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Lima"]}}, "required": ["city"]},
    },
}


class Colour(BaseModel):
    """A colour."""

    name: Literal["red", "blue"]


def complete(model, url, **fields):
    return litellm.completion(
        **{
            "model": model,
            "api_base": url,
            "api_key": "unneeded",
            "messages": ASKED,
            "max_tokens": 200,
            "temperature": 0,
            **fields,
        }
    )


for model, url in (("openai/model", f"{URL}/v1"), ("hosted_vllm/model", f"{URL}/v1"), ("anthropic/model", URL)):
    answer = complete(model, url)
    assert answer.choices[0].message.content, model
    assert answer.usage.completion_tokens > 0
    assert "".join(chunk.choices[0].delta.content or "" for chunk in complete(model, url, stream=True))
    called = complete(model, url, tools=[WEATHER], tool_choice="required").choices[0]
    (call,) = called.message.tool_calls
    assert json.loads(call.function.arguments)["city"] in {"Paris", "Lima"}
    results = [*ASKED, called.message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "mild"}]
    assert complete(model, url, tools=[WEATHER], messages=results).choices[0].finish_reason
    chunks = list(complete(model, url, tools=[WEATHER], tool_choice="required", stream=True))
    joined = litellm.stream_chunk_builder(chunks, messages=ASKED)
    assert json.loads(joined.choices[0].message.tool_calls[0].function.arguments)["city"] in {"Paris", "Lima"}
    if not model.startswith("anthropic"):
        held = complete(model, url, response_format=Colour, messages=[{"role": "user", "content": "A colour?"}])
        Colour.model_validate_json(held.choices[0].message.content)
text = litellm.text_completion(
    model="text-completion-openai/model", api_base=f"{URL}/v1", api_key="x", prompt="a", max_tokens=4
)
assert text.choices[0].text is not None
vectors = litellm.embedding(
    model="hosted_vllm/embedder", api_base=f"{EMBEDDINGS}/v1", api_key="x", input=["one", "two"]
)
assert len(vectors.data) == 2
print("done")
