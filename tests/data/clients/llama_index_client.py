"""Calls of LlamaIndex's OpenAI-like packages as people make them, against the URL in the first argument."""

import sys
from typing import Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field

URL, EMBEDDINGS = sys.argv[1:]
MODEL = {
    "model": "model",
    "api_base": f"{URL}/v1",
    "api_key": "unneeded",
    "is_chat_model": True,
    "is_function_calling_model": True,
    "context_window": 4096,
    "max_tokens": 200,
    "temperature": 0,
    "max_retries": 0,
}


class Order(BaseModel):
    """An order of fruit."""

    fruit: Literal["apple", "pear"]
    number: int = Field(ge=1, le=9)


def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"{city}: mild"


llm = OpenAILike(**MODEL)
asked = [ChatMessage(role="user", content="How is the weather in Lima?")]
assert llm.chat([ChatMessage(role="system", content="Be brief."), *asked]).message.content
assert "".join(chunk.delta or "" for chunk in llm.stream_chat(asked))
assert llm.complete("Say hello.").text
tool = FunctionTool.from_defaults(fn=get_weather)
answer = llm.chat_with_tools([tool], chat_history=asked, tool_required=True)
calls = llm.get_tool_calls_from_response(answer)
assert [call.tool_name for call in calls] == ["get_weather"], answer
assert tool.call(**calls[0].tool_kwargs).content
last = list(llm.stream_chat_with_tools([tool], chat_history=asked, tool_required=True))[-1]
assert [call.tool_name for call in llm.get_tool_calls_from_response(last)] == ["get_weather"]
assert isinstance(llm.as_structured_llm(Order).complete("Order two pears.").raw, Order)
held = OpenAILike(**MODEL, should_use_structured_outputs=True)
assert isinstance(held.as_structured_llm(Order).complete("Order two pears.").raw, Order)
completing = OpenAILike(**{**MODEL, "is_chat_model": False, "is_function_calling_model": False})
assert completing.complete("Once upon a").text
vectors = OpenAILikeEmbedding(model_name="embedder", api_base=f"{EMBEDDINGS}/v1", api_key="unneeded")
assert len(vectors.get_text_embedding_batch(["one", "two"])) == 2
print("done")
