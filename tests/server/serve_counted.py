"""Runs the server of `serve_fake`, and reports what its event loop does beyond a bound in one iteration.

Counted are calls of functions, and the size of what goes through those that may take long in one call. A line for each
iteration beyond `BOUNDS` is appended to the file that OVERSTEPS names. Runs on asyncio's own loop: uvloop's iterations
can't be separated from here.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from octavo_engine.cli.arguments import parse
from octavo_engine.cli.serve import serve
from octavo_engine.core_client.engine_client import EngineClient
from octavo_engine.server.answer import error_responses, event_stream, raw_lists
from octavo_engine.server.intake import protocol, request_body
from octavo_engine.server.intake.limits import FEW_TEXTS, FEW_TOKENS, SHORT_TEXT
from octavo_engine.text.tokenizer import Tokenizer

# Of one iteration. Each takes 10 ms and less, but for the body, which is parsed in one call wherever that is done.
BOUNDS = {
    "calls": 100_000,
    "bytes parsed": 2**21,  # the largest body of a short context
    "bytes scanned": 0,
    "characters encoded": SHORT_TEXT + 2 * FEW_TEXTS,
    "tokens decoded": FEW_TOKENS,
    "bytes of JSON written": 2**18,
    "bytes sent to the core": 2**23,
}


class Work:
    """The work of the iteration that runs now, of what is counted."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self._loop = threading.get_ident()
        self._run_once = asyncio.BaseEventLoop._run_once  # type: ignore[attr-defined]

    def measure(self, owner: Any, name: str, what: str, argument: int | None) -> None:
        """Count the lengths that the function `owner.name` is given as its `argument`; None: of its result."""
        function = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if threading.get_ident() == self._loop:
                self.done[what] += len(result if argument is None else args[argument])
            return result

        setattr(owner, name, counted)

    def watch(self) -> None:
        """Judge each iteration of the loop when it ends."""

        def run_once(loop: asyncio.BaseEventLoop) -> None:
            self.done.clear()
            sys.setprofile(self._note_call)
            self._run_once(loop)
            sys.setprofile(None)
            if any(count > BOUNDS[what] for what, count in self.done.items()):
                with Path(os.environ["OVERSTEPS"]).open("a") as file:
                    file.write(f"{dict(self.done)}\n")

        asyncio.BaseEventLoop._run_once = run_once  # type: ignore[attr-defined]

    def _note_call(self, _frame: Any, event: str, _argument: Any) -> None:
        self.done["calls"] += event in {"call", "c_call"}


class Encoder:
    """An encoder whose method can be replaced."""

    def __init__(self, encoder: Any) -> None:
        self.encode = encoder.encode


def count() -> None:
    """Count in this process from now on."""
    sys.modules["uvloop"] = None  # type: ignore[assignment]
    work = Work()
    for module in (event_stream, raw_lists):
        module._encoder = Encoder(module._encoder)  # type: ignore[assignment]
        work.measure(module._encoder, "encode", "bytes of JSON written", None)
    work.measure(error_responses, "_encode", "bytes of JSON written", None)
    for kind in (protocol.CompletionBody, protocol.ChatBody, protocol.TokenizeBody, protocol.DetokenizeBody):
        work.measure(kind, "model_validate_json", "bytes parsed", 0)
    for name in ("check_values", "_decompressed", "_as_utf8"):
        work.measure(request_body, name, "bytes scanned", 0)
    work.measure(Tokenizer, "encode", "characters encoded", 1)
    work.measure(Tokenizer, "decode", "tokens decoded", 1)
    work.measure(EngineClient, "_send_encoded", "bytes sent to the core", 1)
    work.watch()


if __name__ == "__main__":
    count()
    sys.exit(serve(parse(sys.argv[1:]), loader="octavo_testing.fake_engine_loader:load"))
