"""One small question to a model hub: a repository's config.json. Asked once, with a deadline, no retries.

huggingface_hub would retry for half a minute while a person waits for a plan; all it is needed for is the hub's
address.
"""

from __future__ import annotations

import json
import os
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from octavo_operator.errors import ModelUnknownError

TIMEOUT_S = 5.0
LARGEST = 4 << 20
NO_HOME = Path("/nonexistent")  # what Debian gives to users without a home


def config_of(name: str, revision: str | None) -> str:
    """The text of the repository's config.json. Raises ModelUnknownError with the reason as half a sentence."""
    return _answer(f"{quote(name)}/resolve/{quote(revision or 'main', safe='')}/config.json", "its config.json")


def sizes_of(name: str, revision: str | None) -> dict[str, int]:
    """The repository's files with their bytes. Raises ModelUnknownError with the reason as half a sentence."""
    path = f"api/models/{quote(name)}/revision/{quote(revision or 'main', safe='')}?blobs=true"
    try:
        siblings = json.loads(_answer(path, "its files"))["siblings"]
        return {each["rfilename"]: int(each["size"]) for each in siblings if each.get("size") is not None}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnknownError("the hub's list of its files can't be read") from error


def _answer(path: str, what: str) -> str:
    url = f"{_endpoint()}/{path}"
    headers = {"User-Agent": "octavo"}
    if token := _token():
        headers["Authorization"] = f"Bearer {token}"
    try:
        with build_opener(_SameHost).open(Request(url, headers=headers), timeout=TIMEOUT_S) as response:
            body: bytes = response.read(LARGEST + 1)
            if len(body) > LARGEST:
                raise ModelUnknownError(f"the hub's answer for {what} is larger than {LARGEST >> 20} MiB")
            return body.decode()
    except HTTPError as error:
        error.close()
        if error.code in {401, 403}:
            remedy = "accept the model's terms and set HF_TOKEN"
            raise ModelUnknownError(f"the hub requires a token for {what}; {remedy}") from error
        raise ModelUnknownError(f"the hub answers {error.code} when asked for {what}") from error
    except (URLError, HTTPException, OSError, ValueError) as error:
        raise ModelUnknownError("the hub can't be reached; give its config.json with --config FILE") from error


def _endpoint() -> str:
    if named := os.environ.get("HF_ENDPOINT"):
        return named.rstrip("/")
    try:
        from huggingface_hub.constants import ENDPOINT  # noqa: PLC0415 — only a question to the hub pays for it
    except ImportError:
        raise ModelUnknownError("no hub is known: set HF_ENDPOINT, or install huggingface-hub") from None
    return ENDPOINT


def user_cache() -> Path:
    """The folder where the user's programs keep what they fetched; it does not exist for a user without a home."""
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def hub_home() -> Path:
    """huggingface_hub's folder, by the same variables."""
    named = os.environ.get("HF_HOME")
    return expanded(named) if named else user_cache() / "huggingface"


def expanded(path: str) -> Path:
    """The path with `~` resolved; one that is not there where no such home is known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return NO_HOME


def _token() -> str | None:
    if token := os.environ.get("HF_TOKEN"):
        return token
    try:
        return (hub_home() / "token").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


class _SameHost(HTTPRedirectHandler):
    """The token is for the hub alone: it does not follow to where the hub keeps its files."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            following.remove_header("Authorization")
        return following
