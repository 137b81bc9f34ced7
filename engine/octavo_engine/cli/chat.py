"""`octavo chat`: a chat in the terminal with any server of the OpenAI API."""

# ruff: noqa: T201 - a program for the terminal prints

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from contextlib import aclosing
from typing import Any, TextIO

from octavo_engine.client.openai_client import ApiError, OpenAIClient

END_WORDS = frozenset({"quit", "exit", "/quit", "/exit", "/bye"})
INTERRUPTED = 130  # a shell's code for a program that Ctrl-C ended


class Chat:
    """One conversation: streams each answer as it comes and keeps what was said."""

    def __init__(self, client: OpenAIClient, options: argparse.Namespace, out: TextIO) -> None:
        self._client = client
        self._out = out
        self._body: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        if options.max_tokens is not None:
            self._body["max_tokens"] = options.max_tokens
        if options.temperature is not None:
            self._body["temperature"] = options.temperature
        self.model: str | None = options.model
        self.messages: list[dict[str, str]] = []
        if options.system:
            self.messages.append({"role": "system", "content": options.system})

    async def open(self) -> None:
        """Ask the server for its model unless one was named. Raises ApiError."""
        if self.model is None:
            models = await self._client.models()
            if not models:
                raise ApiError(f"{self._client.base_url} serves no model")
            self.model = models[0]

    async def answer(self, prompt: str) -> str:
        """Stream the answer to `prompt`. Returns a line on its speed.

        After a cancellation the context keeps what has arrived; after an ApiError it keeps nothing of the turn.
        """
        self.messages.append({"role": "user", "content": prompt})
        pieces: list[str] = []
        start = time.perf_counter()
        first: float | None = None
        tokens = 0
        body = {**self._body, "model": self.model, "messages": self.messages}
        try:
            async with aclosing(self._client.stream("/v1/chat/completions", body)) as chunks:
                async for chunk in chunks:
                    usage = chunk.get("usage")
                    if usage:
                        tokens = usage.get("completion_tokens", 0)
                    for choice in chunk.get("choices") or ():
                        text = (choice.get("delta") or {}).get("content")
                        if text:
                            first = first or time.perf_counter()
                            pieces.append(text)
                            self._out.write(text)
                            self._out.flush()
        except ApiError:
            self.messages.pop()
            raise
        except asyncio.CancelledError:
            self.messages.append({"role": "assistant", "content": "".join(pieces)})
            raise
        self.messages.append({"role": "assistant", "content": "".join(pieces)})
        return _speed(tokens, start, first, time.perf_counter())


def _speed(tokens: int, start: float, first: float | None, end: float) -> str:
    if first is None or tokens < 2 or end <= first:
        return ""
    return f"{tokens} tokens, the first after {(first - start) * 1e3:.0f} ms, then {(tokens - 1) / (end - first):.0f}/s"


def parser() -> argparse.ArgumentParser:
    """The verb's command line."""
    parser = argparse.ArgumentParser(
        prog="octavo chat",
        description="Chat with a served model in the terminal. Ctrl-C cuts an answer short; quit or Ctrl-D ends. "
        "Where stdin is not a terminal, each of its lines is a turn.",
    )
    parser.add_argument("--base-url", default="http://127.0.0.1:8000", help="the server (default: %(default)s)")
    parser.add_argument("--model", help="the served name (default: the first that the server lists)")
    parser.add_argument("--api-key", default=None, help="the server's key (default: $OPENAI_API_KEY)")
    parser.add_argument("--ca-cert", metavar="FILE", help="PEM file to trust the server by (default: the system's)")
    parser.add_argument("--system", metavar="TEXT", help="a system message to begin with")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest answer (default: the server's)")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 is greedy (default: the server's)")
    parser.add_argument("--once", metavar="PROMPT", help="print the answer to PROMPT and end")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the verb: 0 when the chat ended, 1 after an error, 130 after Ctrl-C where there is no one to go on."""
    options = parser().parse_args(argv)
    api_key = options.api_key or os.environ.get("OPENAI_API_KEY")
    client = OpenAIClient(options.base_url, api_key, options.ca_cert)
    chat = Chat(client, options, sys.stdout)
    with asyncio.Runner() as runner:
        try:
            runner.run(client.__aenter__())
            try:
                runner.run(chat.open())
                if options.once is not None:
                    return _one_turn(runner, chat, options.once)
                if sys.stdin.isatty():
                    return _converse(runner, chat)
                return _read_lines(runner, chat)
            finally:
                runner.run(client.__aexit__(None, None, None))
        except ApiError as error:
            print(f"octavo chat: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return INTERRUPTED


def _one_turn(runner: asyncio.Runner, chat: Chat, prompt: str) -> int:
    runner.run(chat.answer(prompt))
    print(flush=True)
    return 0


def _read_lines(runner: asyncio.Runner, chat: Chat) -> int:
    for line in sys.stdin:
        prompt = line.strip()
        if prompt in END_WORDS:
            break
        if prompt:
            _one_turn(runner, chat, prompt)
    return 0


def _converse(runner: asyncio.Runner, chat: Chat) -> int:
    import readline  # noqa: F401, PLC0415 - importing it gives `input` its line editing and history

    print(f"{chat.model}; Ctrl-C cuts an answer short, quit or Ctrl-D ends")
    while True:
        try:
            prompt = input("\n> ").strip()
        except KeyboardInterrupt:
            print("\n(quit or Ctrl-D ends)", end="")
            continue
        except EOFError:
            print()
            return 0
        if prompt in END_WORDS:
            return 0
        if not prompt:
            continue
        try:
            speed = runner.run(chat.answer(prompt))
            print(f"\n{_dimmed(speed)}" if speed and sys.stdout.isatty() else "")
        except KeyboardInterrupt:
            print("\n(cut short)")
        except ApiError as error:
            print(f"octavo chat: {error}", file=sys.stderr)


def _dimmed(text: str) -> str:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return text if plain else f"\x1b[2m{text}\x1b[0m"


if __name__ == "__main__":
    from octavo.process import run

    sys.exit(run("octavo chat", main))
