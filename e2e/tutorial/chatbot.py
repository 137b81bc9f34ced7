"""A chatbot as the tutorial builds one: the openai package, pointed at the port that kubectl forwards."""

from __future__ import annotations

import sys

from openai import OpenAI

MODEL = "microsoft/phi-2"


def main(url: str) -> None:
    """Answers each line that is typed, with all that was said before in mind; `quit` ends it."""
    client = OpenAI(base_url=f"{url}/v1", api_key="not-needed")
    messages = [{"role": "system", "content": "You are a helpful Kubernetes expert."}]
    print("Chatbot ready! Type 'quit' to exit.\n")
    while (line := input("You: ")).lower() != "quit":
        messages.append({"role": "user", "content": line})
        response = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=200, temperature=0.7)
        text = response.choices[0].message.content
        messages.append({"role": "assistant", "content": text})
        print(f"\nAssistant: {text}\n")
    print(f"{len(messages)} messages")


if __name__ == "__main__":
    main(sys.argv[1])
