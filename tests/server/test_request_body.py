"""A body is read as it was meant: compressed, in another charset, with a byte order mark; else the status says why."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

COMPLETION = json.dumps({"prompt": "é", "max_tokens": 4, "seed": 1}, ensure_ascii=False)
DATA = COMPLETION.encode()
ZIPPED = gzip.compress(DATA, mtime=0)


def deflated(data: bytes, bits: int) -> bytes:
    compressor = zlib.compressobj(wbits=bits)
    return compressor.compress(data) + compressor.flush()


@pytest.fixture(scope="module")
def text(served):
    """The answer to the plain body."""
    return served.post("/v1/completions", DATA)[1]["choices"][0]["text"]


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", ZIPPED),
        ("GZIP", ZIPPED),
        ("x-gzip", ZIPPED),
        ("gzip", gzip.compress(DATA[:9], mtime=0) + gzip.compress(DATA[9:], mtime=0)),
        ("gzip", gzip.compress(DATA + b" " * 2**20, mtime=0)),
        ("deflate", deflated(DATA, 15)),
        ("deflate", deflated(DATA, -15)),
        ("identity", DATA),
        ("", DATA),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_compressed_body_is_read(served, text, encoding, data):
    """Both forms of deflate are in use."""
    status, answer, _ = served.post("/v1/completions", data, headers={"Content-Encoding": encoding})
    assert status == 200, answer
    assert answer["choices"][0]["text"] == text


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, br", "nonsense"])
def test_an_unknown_encoding_is_refused_with_415(served, encoding):
    """With what would be read."""
    status, answer, _ = served.post("/v1/completions", DATA, headers={"Content-Encoding": encoding})
    assert (status, answer["error"]["code"]) == (415, 415)
    assert "gzip" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", DATA),
        ("gzip", ZIPPED[:-4]),
        ("gzip", ZIPPED[:20]),
        ("gzip", ZIPPED + b"more"),
        ("gzip", ZIPPED[:-6] + bytes([ZIPPED[-6] ^ 1]) + ZIPPED[-5:]),
        ("gzip", b""),
        ("deflate", DATA),
        ("deflate", deflated(DATA, 15)[:-2]),
        ("deflate", deflated(DATA, 15) + b"more"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_body_is_refused_with_400(served, encoding, data):
    """The mistake is the client's, and not a bug of the server."""
    status, answer, _ = served.post("/v1/completions", data, headers={"Content-Encoding": encoding})
    assert (status, answer["error"]["code"]) == (400, 400)
    assert "a bug while answering" not in served.output


@pytest.mark.parametrize("members", [1, 10])
def test_a_body_that_grows_too_large_is_refused_with_413(served, members):
    """One member of it may be too large, or all together."""
    bomb = gzip.compress(b" " * (80 * 2**20 // members)) * members
    status, answer, _ = served.post("/v1/completions", bomb, headers={"Content-Encoding": "gzip"})
    assert (status, answer["error"]["type"]) == (413, "RequestTooLargeError")


def test_a_body_of_very_many_parts_costs_no_more_than_its_size(served):
    """Each part of a gzip body costs a copy of what follows, so few are read."""
    empty = gzip.compress(b"", mtime=0)
    status, answer, _ = served.post("/v1/completions", empty * 100_000, headers={"Content-Encoding": "gzip"})
    assert (status, answer["error"]["type"]) == (400, "BadRequestError")
    assert "parts" in answer["error"]["message"]


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", "iso-8859-1", "utf-16", "utf-16le"])
def test_a_body_in_another_charset_is_read(served, text, charset):
    """Java's and .NET's clients write them unasked."""
    headers = {"Content-Type": f"text/plain; charset={charset}"}
    status, answer, _ = served.post("/v1/completions", COMPLETION.encode(charset), headers=headers)
    assert status == 200, answer
    assert answer["choices"][0]["text"] == text


@pytest.mark.parametrize("charset", ["klingon", "punycode", "rot13", "zlib"])
def test_an_unknown_charset_is_refused_with_415(served, charset):
    """Some of Python's codecs have such names, but are no charset or take too long."""
    headers = {"Content-Type": f"application/json; charset={charset}"}
    status, answer, _ = served.post("/v1/completions", DATA, headers=headers)
    assert status == 415, answer


@pytest.mark.parametrize(
    ("charset", "data"), [("utf-8", b'{"prompt": "\xe9"}'), ("utf-16", b"{"), ("ascii", b'{"prompt": "\xe9"}')]
)
def test_a_body_that_is_not_in_its_charset_is_refused_with_400(served, charset, data):
    """In the shape that clients know."""
    headers = {"Content-Type": f"application/json; charset={charset}"}
    status, answer, _ = served.post("/v1/completions", data, headers=headers)
    assert (status, answer["error"]["code"]) == (400, 400)


def test_a_byte_order_mark_is_no_part_of_the_body(served, text):
    """Windows' editors and PowerShell write it; one alone is an empty body."""
    status, answer, _ = served.post("/v1/completions", b"\xef\xbb\xbf" + DATA)
    assert (status, answer["choices"][0]["text"]) == (200, text)
    headers = {"Content-Encoding": "gzip"}
    assert served.post("/v1/completions", gzip.compress(b"\xef\xbb\xbf" + DATA), headers=headers)[0] == 200
    assert served.post("/v1/completions", b"\xef\xbb\xbf")[0] == 400


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "text/plain", "///;;==", ""])
def test_the_content_type_is_not_asked_for(served, kind):
    """`curl -d` says that it sends a form."""
    assert served.post("/v1/completions", DATA, headers={"Content-Type": kind})[0] == 200
