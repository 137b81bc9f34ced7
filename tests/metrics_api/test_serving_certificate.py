"""The serving certificate is kept while it will do, renewed in time, and trusted throughout."""

from __future__ import annotations

import datetime as dt
import ssl

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from octavo_operator.metrics_api.serving_certificate import ServingCertificate, current, from_data

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HOSTS = ("octavo-metrics-api.octavo-system.svc", "octavo-metrics-api")


def after(days):
    return NOW + dt.timedelta(days=days)


def trusted(certificate: ServingCertificate, by: ServingCertificate):
    """True if a client with the bundle of `by` accepts `certificate`."""
    leaf = x509.load_pem_x509_certificate(certificate.certificate)
    for authority in x509.load_pem_x509_certificates(by.authorities):
        try:
            leaf.verify_directly_issued_by(authority)
        except InvalidSignature:
            continue
        return True
    return False


def test_one_that_will_do_is_kept():
    """Nothing is written while nothing is due; a subset of its hosts will do as well."""
    held = current(None, HOSTS, NOW)
    assert current(held, HOSTS, after(59)) is held
    assert current(from_data(held.data()), HOSTS[:1], NOW) == held


def test_it_is_renewed_a_month_before_its_end_by_the_same_authority():
    """Clients that have the authority need no new bundle."""
    held = current(None, HOSTS, NOW)
    renewed = current(held, HOSTS, after(61))
    assert renewed.certificate != held.certificate
    assert renewed.authorities == held.authorities
    assert trusted(renewed, by=held)


def test_a_new_authority_is_announced_beside_the_old_one():
    """Processes change over one after the other: both certificates are trusted meanwhile."""
    held = current(None, HOSTS, NOW)
    for days in range(60, 3300, 60):
        held = current(held, HOSTS, after(days)) if days < 3280 else held
    renewed = current(held, HOSTS, after(3290))
    assert len(x509.load_pem_x509_certificates(renewed.authorities)) == 2
    assert trusted(held, by=renewed)
    assert trusted(renewed, by=renewed)
    assert current(renewed, HOSTS, after(3291)) is renewed
    later = current(renewed, HOSTS, after(3700))  # the old authority has ended
    assert len(x509.load_pem_x509_certificates(later.authorities)) == 1


@pytest.mark.parametrize("spoilt", ["certificate", "key", "authorities", "authority_key"])
def test_what_cannot_be_read_is_made_again(spoilt):
    """A person's edit of the Secret heals."""
    held = current(None, HOSTS, NOW)
    parts = {name: getattr(held, name) for name in ("certificate", "key", "authorities", "authority_key")}
    made = current(ServingCertificate(**{**parts, spoilt: b"nonsense"}), HOSTS, NOW)
    assert made.certificate != held.certificate
    assert trusted(made, by=made)


def test_other_hosts_need_another_certificate():
    """The operator's namespace is part of its name."""
    held = current(None, HOSTS, NOW)
    assert current(held, ("octavo-metrics-api.elsewhere.svc",), NOW).certificate != held.certificate


def test_a_key_of_another_certificate_is_not_taken():
    """The two halves of a Secret go together."""
    held, other = current(None, HOSTS, NOW), current(None, HOSTS, NOW)
    mixed = ServingCertificate(held.certificate, other.key, held.authorities, held.authority_key)
    assert current(mixed, HOSTS, NOW).certificate != held.certificate


def test_openssl_verifies_it_for_its_hosts(tmp_path):
    """OpenSSL checks it as strictly as Python does by default."""
    held = current(None, HOSTS, dt.datetime.now(dt.UTC))
    context = ssl.create_default_context(cadata=held.authorities.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    file = tmp_path / "both.pem"
    file.write_bytes(held.certificate + held.key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    handshake(context, server, HOSTS[0])
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(context, server, "elsewhere.svc")


def handshake(client_context, server_context, host):
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    done = {client: False, server: False}
    while not all(done.values()):
        for side in done:
            try:
                side.do_handshake()
                done[side] = True
            except ssl.SSLWantReadError:
                continue
