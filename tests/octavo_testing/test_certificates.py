"""Certificates of certificates.py are accepted by a strict reader: Python's own TLS, on both sides."""

from __future__ import annotations

import ssl

import pytest
from octavo_testing.certificates import Authority


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("test authority")


def handshake(tmp_path, server_of: Authority, trusted: Authority, host: str) -> dict:
    """The server's certificate as the client saw it, after a handshake in memory that verifies both."""
    contexts = []
    for side, (protocol, name, hosts) in enumerate(
        [(ssl.PROTOCOL_TLS_SERVER, "server", ["127.0.0.1", "localhost"]), (ssl.PROTOCOL_TLS_CLIENT, "someone", [])]
    ):
        issued = server_of.issue(name, hosts, groups=["system:masters"])
        path = tmp_path / f"{side}.pem"
        path.write_text(issued.certificate + issued.key)
        context = ssl.SSLContext(protocol)
        context.load_cert_chain(path)
        context.load_verify_locations(cadata=trusted.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        contexts.append(context)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = contexts[0].wrap_bio(up, down, server_side=True)
    client = contexts[1].wrap_bio(down, up, server_hostname=host)
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for side in (client, server):
            if side not in done:
                try:
                    side.do_handshake()
                    done.add(side)
                except ssl.SSLWantReadError:
                    continue
    assert done == {client, server}
    assert ("commonName", "someone") in [field for (field,) in server.getpeercert()["subject"]]
    return client.getpeercert()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_both_sides_accept_each_other(authority, tmp_path, host):
    certificate = handshake(tmp_path, authority, authority, host)
    assert certificate["subjectAltName"] == (("IP Address", "127.0.0.1"), ("DNS", "localhost"))
    assert [field for (field,) in certificate["subject"]] == [
        ("organizationName", "system:masters"),
        ("commonName", "server"),
    ]


def test_another_host_is_not_accepted(authority, tmp_path):
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(tmp_path, authority, authority, "example.org")


def test_another_authority_of_the_same_name_is_not_accepted(authority, tmp_path):
    with pytest.raises(ssl.SSLError):
        handshake(tmp_path, authority, Authority("test authority"), "localhost")


def test_many_keys_and_signatures_verify(authority, tmp_path):
    """Numbers with leading zeros or a high bit are written as DER requires."""
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        handshake(folder, authority, authority, "localhost")
