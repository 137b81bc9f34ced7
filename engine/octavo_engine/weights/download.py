"""Fetches one file over HTTP: resumed where a former attempt ended, verified before it counts."""

from __future__ import annotations

import hashlib
import http.client
import ssl
import time
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

from octavo_engine.errors import ModelLoadError
from octavo_engine.weights.cache import Report, check_space
from octavo_engine.weights.passwords import Passwords

ATTEMPTS = 4
PAUSE = 0.25  # seconds before the second attempt; each further one waits four times as long
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 20
SPACE_CHECKED_EACH = 64 << 20  # bytes of a file whose size no one states
LARGEST_PAGE = 64 << 20  # bytes; an index page of a project with thousands of files has a few


class Http:
    """Opens http and https addresses, with the certificates that were configured.

    A password is sent to the origin (scheme, host and port) that an address or the user's .netrc names it for, and to
    no other: not where an index keeps its files elsewhere, nor where a redirect leads.
    """

    def __init__(self, certificates: str | None = None) -> None:
        try:
            context = ssl.create_default_context(cafile=certificates)
        except OSError as error:
            raise ModelLoadError(f"{certificates}: these certificates can't be read: {error.strerror}") from error
        self._passwords = Passwords()
        self._opener = urllib.request.build_opener(
            _Redirects(self._passwords), urllib.request.HTTPSHandler(context=context)
        )

    def open(self, url: str, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
        """Open `url`. Raises urllib's and the socket's own errors, which the caller translates."""
        try:
            scheme = urlsplit(url).scheme
            if scheme not in {"http", "https"}:
                raise urllib.error.URLError(f"{scheme or 'no'} scheme; http and https are served")
            request = self._passwords.request(url, {"User-Agent": "octavo", **(headers or {})})
            response: http.client.HTTPResponse = self._opener.open(request, timeout=TIMEOUT)
        except ValueError as error:  # the address of a web page or of a redirect
            raise urllib.error.URLError(f"it is no address, or leads to what is none: {error}") from error
        return response

    def page(self, url: str, accept: str) -> tuple[str, bytes, str]:
        """Fetch a web page. Returns its content type, body and final address."""
        with self.open(url, {"Accept": accept}) as response:
            try:
                body = response.read(LARGEST_PAGE + 1)
            except http.client.HTTPException as error:
                raise urllib.error.URLError(f"the answer ends early: {error}") from error
            if len(body) > LARGEST_PAGE:
                raise urllib.error.URLError(f"the answer is larger than {LARGEST_PAGE} bytes")
            return response.headers.get_content_type(), body, response.url

    def fetch(self, url: str, target: Path, *, sha256: str, size: int | None, what: str, report: Report) -> None:
        """Write the file at `url` to `target`, resuming an earlier attempt.

        Raises:
            ModelLoadError: it can't be downloaded, or differs from `sha256`; `target` is then deleted.
        """
        for attempt in range(ATTEMPTS):
            resumed = target.exists() and target.stat().st_size > 0
            try:
                self._append(url, target, size, what, report)
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == 416:
                    target.unlink()
                elif error.code < 500 and error.code != 429:
                    raise ModelLoadError(f"{what}: {shown(url)} answers {error.code} {error.reason}") from error
                problem: object = f"{error.code} {error.reason}"
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.filename is not None:
                    raise  # the disk's, not the network's
                problem = getattr(error, "reason", None) or error or type(error).__name__
            else:
                found = sha256_of(target)
                if found == sha256:
                    return
                target.unlink()
                problem = f"its SHA-256 is {found}, where the index states {sha256}"
                if not resumed:
                    raise ModelLoadError(f"{what}: what {shown(url)} sent is damaged or was replaced: {problem}")
            if attempt + 1 < ATTEMPTS:
                time.sleep(PAUSE * 4**attempt)
        raise ModelLoadError(f"{what}: {shown(url)} could not be fetched in {ATTEMPTS} attempts: {problem}")

    def _append(self, url: str, target: Path, size: int | None, what: str, report: Report) -> None:
        have = target.stat().st_size if target.exists() else 0
        if size is not None and have >= size:
            return
        with self.open(url, {"Range": f"bytes={have}-"} if have else {}) as response:
            if response.status == 206 and _range_start(response.headers) != have:
                raise http.client.HTTPException("the server sent another part of the file than was asked for")
            if response.status != 206:
                have = 0
            length = _length(response.headers)
            end = size if length is None else have + length
            if size is not None and end is not None and end > size:
                raise http.client.HTTPException(f"the server sends {end} bytes, where the index states {size}")
            check_space(target.parent, 0 if end is None else end - have, what)
            with target.open("ab" if have else "wb") as file:
                _copy(response, file, have, end, what, report)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to http, each with the password of its own origin alone."""

    def __init__(self, passwords: Passwords) -> None:
        self._passwords = passwords

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise urllib.error.HTTPError(newurl, code, "a redirect from https to http is refused", headers, fp)
        following = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
        return None if following is None else self._passwords.request(newurl, dict(following.header_items()))


def _copy(response: Any, file: IO[bytes], have: int, end: int | None, what: str, report: Report) -> None:
    report(what, have, end)
    reported = checked = have
    while chunk := response.read1(CHUNK):
        file.write(chunk)
        have += len(chunk)
        if end is not None and have > end:
            raise http.client.HTTPException(f"the server sent more than {end} bytes")
        if end is None and have - checked >= SPACE_CHECKED_EACH:
            check_space(Path(file.name).parent, 0, what)
            checked = have
        if have - reported >= CHUNK or have == end:
            report(what, have, end)
            reported = have
    if end is not None and have < end:
        raise http.client.HTTPException(f"the connection ended at {have} of {end} bytes")


def _length(headers: Message) -> int | None:
    length = headers.get("Content-Length")
    return int(length) if length is not None and length.isdecimal() else None


def _range_start(headers: Message) -> int | None:
    unit, _, rest = headers.get("Content-Range", "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdecimal() else None


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shown(url: str) -> str:
    """The address without a password, for messages."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that is none"
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
