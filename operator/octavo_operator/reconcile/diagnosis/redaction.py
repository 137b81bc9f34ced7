"""Takes credentials out of other people's words before they enter a status, an Event or a log. Pure.

Last words of a process may hold the URL that failed, with its password, or a header with a token.
"""

from __future__ import annotations

import re

HIDDEN = "[redacted]"

_PATTERNS = (
    # user:password@ of a URL
    (re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]*://)[^\s/@'\"]+@", re.IGNORECASE), rf"\g<keep>{HIDDEN}@"),
    # Authorization: Bearer …, Basic …
    (re.compile(r"(?P<keep>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\g<keep>{HIDDEN}"),
    # the query of a signed URL, and anything that is named as a secret
    (
        re.compile(
            r"(?P<keep>\b(?:X-Amz-(?:Signature|Credential|Security-Token)|Signature|sig|[\w-]*(?:token|secret|password|passwd|"
            r"api[_-]?key|access[_-]?key(?:[_-]?id)?))['\"]?(?:\s*=\s*|:\s*)['\"]?)(?!\s)[^\s&'\",;)}\]]{4,}",
            re.IGNORECASE,
        ),
        rf"\g<keep>{HIDDEN}",
    ),
    # tokens that are known by their form: Hugging Face, OpenAI, GitHub, AWS, Google, JWT
    (
        re.compile(
            r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[A-Z0-9]{12,}|"
            r"AIza[A-Za-z0-9_-]{20,}|ya29\.[A-Za-z0-9_-]{20,}|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*)"
        ),
        HIDDEN,
    ),
)


def redacted(words: str) -> str:
    """Remove what looks like a credential."""
    for pattern, replacement in _PATTERNS:
        words = pattern.sub(replacement, words)
    return words
