"""HTTPS by vLLM's flags: the certificate is that of the moment, and bad files end the start in one sentence."""

from __future__ import annotations

import re
import socket
import ssl

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from octavo_testing.certificates import Authority
from octavo_testing.served import Served, until

from octavo_engine.cli.arguments import parse
from octavo_engine.client.openai_client import ApiError, OpenAIClient
from octavo_engine.errors import ConfigError

PROMPT = {"model": "fake", "prompt": "hello", "max_tokens": 4, "stream": True}


@pytest.fixture(scope="module")
def authority():
    return Authority("an authority")


@pytest.fixture(scope="module")
def volume(authority, tmp_path_factory):
    """A folder like a Secret's volume: what it shows lies behind a link that is exchanged as a whole."""
    folder = tmp_path_factory.mktemp("tls")
    (folder / "ca.crt").write_text(authority.certificate)
    for name in ("tls.crt", "tls.key"):
        (folder / name).symlink_to(f"..data/{name}")
    show(folder, "first", authority.issue("first", ["127.0.0.1"]))
    return folder


def show(folder, version, issued):
    """Exchange what the volume shows, as the kubelet does."""
    (folder / version).mkdir()
    (folder / version / "tls.crt").write_text(issued.certificate)
    (folder / version / "tls.key").write_text(issued.key)
    (folder / "..new").symlink_to(version)
    (folder / "..new").rename(folder / "..data")


def flags(folder):
    return ("--ssl-certfile", f"{folder}/tls.crt", "--ssl-keyfile", f"{folder}/tls.key")


@pytest.fixture(scope="module")
def encrypted(fake_model, volume):
    """A server with TLS that takes clients' certificates too."""
    client = ("--ssl-ca-certs", f"{volume}/ca.crt", "--ssl-cert-reqs", "1")
    with Served(fake_model, "--served-model-name", "fake", *flags(volume), *client) as server:
        yield server


def shown_name(server, authority, client=None):
    """The name in the certificate that a new connection is shown, once the server has answered over it."""
    context = ssl.create_default_context(cadata=authority.certificate)
    if client is not None:
        context.load_cert_chain(client)
    host, port = server.url.removeprefix("https://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = connection.recv(64)
        if not answer:
            raise ConnectionError("closed without an answer")
        assert answer.startswith(b"HTTP/1.1 200 ")
        return dict(part[0] for part in connection.getpeercert()["subject"])["commonName"]


async def test_an_answer_is_streamed_over_tls(encrypted, volume):
    """The URL that is printed is https, and octavo's own client trusts it by --ca-cert."""
    assert encrypted.url.startswith("https://")
    async with OpenAIClient(encrypted.url, ca_cert=str(volume / "ca.crt")) as client:
        assert await client.models() == ["fake"]
        assert len([chunk async for chunk in client.stream("/v1/completions", PROMPT)]) > 1


async def test_an_untrusted_certificate_is_named_with_the_remedy(encrypted, volume):
    """A file without a certificate is named too."""
    with pytest.raises(ApiError, match=r"is not trusted \(.+\): name its authority with --ca-cert FILE"):
        async with OpenAIClient(encrypted.url) as client:
            await client.models()
    with pytest.raises(ApiError, match=r"--ca-cert .*tls.key can't be used: it holds no certificate"):
        await OpenAIClient(encrypted.url, ca_cert=str(volume / "tls.key")).__aenter__()


def test_plain_http_is_not_answered_and_harms_no_one(encrypted, authority):
    """A client that closes the connection in the middle of a handshake leaves no traceback in the log."""
    host, port = encrypted.url.removeprefix("https://").split(":")
    for sent in (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00", b""):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(sent)
            if sent.startswith(b"GET"):
                assert not connection.recv(64).startswith(b"HTTP")
    assert shown_name(encrypted, authority)
    assert "Traceback" not in encrypted.output


def test_a_client_s_certificate_is_checked_where_there_is_one(encrypted, authority, tmp_path):
    """One of another authority is refused; without one it is served, for the flag says 1."""
    for issuer, taken in ((authority, True), (Authority("another"), False)):
        issued = issuer.issue("client")
        (tmp_path / "client.pem").write_text(issued.certificate + issued.key)
        if taken:
            assert shown_name(encrypted, authority, tmp_path / "client.pem")
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                shown_name(encrypted, authority, tmp_path / "client.pem")


def test_a_changed_certificate_is_shown_from_the_next_connection_on(encrypted, authority, volume):
    """A pair that does not fit together leaves the last one in place, with one line, and is not the end of it."""
    assert shown_name(encrypted, authority) == "first"
    show(volume, "second", authority.issue("second", ["127.0.0.1"]))
    until(lambda: shown_name(encrypted, authority) == "second", 10)
    broken = authority.issue("third", ["127.0.0.1"])
    (volume / "second" / "tls.crt").write_text(broken.certificate)
    until(lambda: shown_name(encrypted, authority) == "second" and "stays as it was" in encrypted.output, 10)
    (volume / "second" / "tls.key").write_text(broken.key)
    until(lambda: shown_name(encrypted, authority) == "third", 10)
    assert encrypted.output.count("the TLS certificate stays as it was: --ssl-keyfile") == 1


def locked_key():
    """A key that only a password opens."""
    form, password = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"sesame")
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(serialization.Encoding.PEM, form, password)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--ssl-keyfile {0}/key", "--ssl-keyfile needs --ssl-certfile"),
        ("--ssl-cert-reqs 2", "--ssl-cert-reqs needs --ssl-certfile"),
        (
            "--ssl-certfile {0}/none",
            r"--ssl-certfile .*/none can't be read \(No such file or directory\): give the path",
        ),
        ("--ssl-certfile {0}/cert", "--ssl-certfile .*/cert: the file holds no key: give --ssl-keyfile"),
        ("--ssl-certfile {0}/key --ssl-keyfile {0}/key", "--ssl-certfile .*/key: the file holds no certificate in PEM"),
        (
            "--ssl-certfile {0}/cert --ssl-keyfile {0}/cert",
            "--ssl-keyfile .*/cert: the file holds no private key in PEM",
        ),
        ("--ssl-certfile {0}/cert --ssl-keyfile {0}/other", "--ssl-keyfile .*/other does not belong to --ssl-certfile"),
        (
            "--ssl-certfile {0}/broken --ssl-keyfile {0}/key",
            r"--ssl-certfile .*/broken and .* can't be used \(.+\): give a PEM",
        ),
        ("--ssl-certfile {0}/cert --ssl-keyfile {0}/locked", "--ssl-keyfile .*/locked is encrypted, .*: decrypt it"),
        ("--ssl-certfile {0}/cert --ssl-keyfile {0}/key --ssl-cert-reqs 2", "--ssl-cert-reqs 2 needs --ssl-ca-certs"),
        (
            "--ssl-certfile {0}/cert --ssl-keyfile {0}/key --ssl-ca-certs {0}/key",
            "--ssl-ca-certs .*/key: the file holds no",
        ),
        (
            "--ssl-certfile {0}/cert --ssl-keyfile {0}/key --ssl-ciphers X",
            "--ssl-ciphers X: OpenSSL has none of these; give",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_flag(given, words, tmp_path, authority):
    """Before anything is loaded, and with the remedy."""
    issued = authority.issue("server", ["127.0.0.1"])
    (tmp_path / "cert").write_text(issued.certificate)
    (tmp_path / "key").write_text(issued.key)
    (tmp_path / "other").write_text(authority.issue("other").key)
    (tmp_path / "broken").write_text(re.sub(r"\n[^-]+\n", "\nAAAA\n", issued.certificate))
    (tmp_path / "locked").write_bytes(locked_key())
    with pytest.raises(ConfigError, match=words):
        parse(["model", *given.format(tmp_path).split()])


def test_vllm_s_defaults_written_out_mean_plain_http():
    """A chart that has a value for each flag writes them so."""
    assert parse(["model", "--ssl-cert-reqs", "0", "--no-enable-ssl-refresh"]).server.tls is None
