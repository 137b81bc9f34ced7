"""The metrics API's serving certificate, by an authority of its own: made, and renewed long before it ends. Pure but for
randomness.

The authority outlives its certificates, so a renewal changes nothing for who trusts it. When it is renewed itself, the
old one stays in the bundle for as long as it is valid: either certificate is trusted while processes change over.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS, AUTHORITY_RENEWED_DAYS = 3650, 365
SERVING_DAYS, SERVING_RENEWED_DAYS = 90, 30
SKEW = dt.timedelta(hours=1)  # clocks differ

PrivateKey = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class ServingCertificate:
    """PEM, as a Secret of type kubernetes.io/tls has it. `authorities` begins with the one that signs."""

    certificate: bytes
    key: bytes
    authorities: bytes
    authority_key: bytes

    def data(self) -> dict[str, bytes]:
        """The Secret's data."""
        return {
            "tls.crt": self.certificate,
            "tls.key": self.key,
            "ca.crt": self.authorities,
            "ca.key": self.authority_key,
        }


def from_data(data: Mapping[str, bytes]) -> ServingCertificate | None:
    """Read a Secret's data; None where a key is missing."""
    try:
        return ServingCertificate(data["tls.crt"], data["tls.key"], data["ca.crt"], data["ca.key"])
    except KeyError:
        return None


def current(held: ServingCertificate | None, hosts: Sequence[str], now: dt.datetime) -> ServingCertificate:
    """The one that is held, if it will do for a while; else with a new certificate, and where need be a new authority."""
    authorities, authority_key = _authority(held, now)
    bundle = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in authorities)
    if held is not None and bundle == held.authorities and _will_do(held, authorities[0], hosts, now):
        return held
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _issued(authorities[0], authority_key, key, hosts, now)
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    return ServingCertificate(pem, _pem(key), bundle, _pem(authority_key))


def _authority(held: ServingCertificate | None, now: dt.datetime) -> tuple[list[x509.Certificate], PrivateKey]:
    """The authority that signs, before those that are still trusted; and its key."""
    known: list[x509.Certificate] = []
    if held is not None:
        try:
            known = [
                each for each in x509.load_pem_x509_certificates(held.authorities) if each.not_valid_after_utc > now
            ]
            key = serialization.load_pem_private_key(held.authority_key, None)
        except ValueError:
            known = []
        else:
            left = dt.timedelta(days=AUTHORITY_RENEWED_DAYS)
            if (
                known
                and isinstance(key, PrivateKey)
                and _is_of(known[0], key)
                and known[0].not_valid_after_utc - now > left
            ):
                return known, key
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "octavo-metrics-api-ca")])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        _builder(name, name, key, now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return [builder.sign(key, hashes.SHA256()), *known[:1]], key


def _issued(
    authority: x509.Certificate, by: PrivateKey, key: PrivateKey, hosts: Sequence[str], now: dt.datetime
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    builder = (
        _builder(name, authority.subject, key, now, SERVING_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
    )
    return builder.sign(by, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _will_do(held: ServingCertificate, authority: x509.Certificate, hosts: Sequence[str], now: dt.datetime) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(held.certificate)
        key = serialization.load_pem_private_key(held.key, None)
        certificate.verify_directly_issued_by(authority)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    lasts = certificate.not_valid_after_utc - now > dt.timedelta(days=SERVING_RENEWED_DAYS)
    return lasts and _is_of(certificate, key) and set(hosts) <= set(names.get_values_for_type(x509.DNSName))


def _is_of(certificate: x509.Certificate, key: object) -> bool:
    return isinstance(key, PrivateKey) and certificate.public_key() == key.public_key()


def _pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
