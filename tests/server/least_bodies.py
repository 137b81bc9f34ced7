"""Every body of `intake.protocol`: the path that takes it, and a least one of its kind."""

from __future__ import annotations

from octavo_engine.server.intake.protocol import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody

MESSAGES = [{"role": "user", "content": "hi"}]
BODIES = {
    CompletionBody: ("/v1/completions", {"prompt": "hello", "seed": 1}),
    ChatBody: ("/v1/chat/completions", {"messages": MESSAGES, "seed": 1, "max_tokens": 4}),
    TokenizeBody: ("/tokenize", {"prompt": "hello"}),
    DetokenizeBody: ("/detokenize", {"tokens": [40]}),
}
