"""Calls of LangChain's OpenAI and Anthropic packages as people make them, against the URL in the first argument."""

import sys
from typing import Literal

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

URL, EMBEDDINGS = sys.argv[1:]
KEY = {"model": "model", "api_key": "unneeded", "base_url": f"{URL}/v1"}


class Circle(BaseModel):
    """A round thing."""

    kind: Literal["circle"] = "circle"
    radius: int = Field(ge=0, le=9)


class Square(BaseModel):
    """A thing with four sides."""

    kind: Literal["square"] = "square"
    side: int = Field(ge=0, le=9)


class Drawing(BaseModel):
    """A drawing with one shape."""

    shape: Circle | Square = Field(discriminator="kind")
    colour: Literal["red", "blue"]
    note: str | None = Field(default=None, max_length=20)


@tool
def get_weather(city: Literal["Paris", "Lima"], days: int = 1) -> str:
    """Weather of a city."""
    return f"{city}: mild for {days} days"


def chats(model):
    """A chat, a stream and an answer's usage."""
    answer = model.invoke("Say hello.")
    assert answer.content
    assert answer.usage_metadata["output_tokens"] > 0
    chunks = list(model.stream("Say hello."))
    assert "".join(chunk.text for chunk in chunks)
    assert len(model.batch(["one", "two"])) == 2


def tools(model, choice):
    """A call, its result, and the answer that follows."""
    asked = [HumanMessage("How is the weather in Lima?")]
    answer = model.bind_tools([get_weather], tool_choice=choice).invoke(asked)
    (call,) = answer.tool_calls
    assert call["name"] == "get_weather", answer
    results = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    final = model.bind_tools([get_weather]).invoke([*asked, answer, results])
    assert isinstance(final, AIMessage)
    whole = None
    for chunk in model.bind_tools([get_weather], tool_choice=choice).stream(asked):
        whole = chunk if whole is None else whole + chunk
    assert [call["name"] for call in whole.tool_calls] == ["get_weather"]


def structured(model, *methods):
    """A model of Pydantic's, by each way that LangChain has."""
    for method in methods:
        held = model.with_structured_output(Drawing, method=method)
        drawing = held.invoke("Draw a red circle of radius 3.")
        assert isinstance(drawing, Drawing), (method, drawing)
    raw = model.with_structured_output(Drawing, method=methods[0], include_raw=True).invoke("Draw a blue square.")
    assert raw["parsing_error"] is None


openai = ChatOpenAI(**KEY, temperature=0, max_tokens=200)
chats(openai)
tools(openai, "any")
tools(openai, "get_weather")
structured(openai, "json_schema", "function_calling")
held = openai.with_structured_output(Drawing, method="function_calling", strict=True).invoke("Draw a red circle.")
assert isinstance(held, Drawing)
assert openai.with_structured_output(None, method="json_mode").invoke("A JSON object with the key a.") is not None
responses = ChatOpenAI(**KEY, temperature=0, max_tokens=200, use_responses_api=True)
chats(responses)
tools(responses, "any")
structured(responses, "json_schema", "function_calling")
anthropic = ChatAnthropic(model="model", api_key="unneeded", base_url=URL, temperature=0, max_tokens=200)
chats(anthropic)
tools(anthropic, "any")
structured(anthropic, "function_calling")
assert OpenAI(**KEY, max_tokens=8).invoke("Once upon") is not None
vectors = OpenAIEmbeddings(
    model="embedder", api_key="unneeded", base_url=f"{EMBEDDINGS}/v1", check_embedding_ctx_length=False
)
assert len(vectors.embed_documents(["one", "two"])) == 2
assert len(vectors.embed_query("one")) == len(vectors.embed_query("two"))
print("done")
