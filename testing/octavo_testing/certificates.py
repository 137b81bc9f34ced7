"""Keys and certificates for a control plane on loopback, from the standard library alone.

Neither openssl nor the `cryptography` package has to be on the machine: ECDSA on P-256 is a screen of integers. It takes
no care against side channels, so it signs for tests and for nothing else.
DER: ITU-T X.690; certificates: RFC 5280; keys: RFC 5915; signatures: FIPS 186-5, curve: SP 800-186.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import ipaddress
import secrets
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

FIELD = 2**256 - 2**224 + 2**192 + 2**96 - 1
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
BASE = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
P256 = "1.2.840.10045.3.1.7"
EC_PUBLIC_KEY = "1.2.840.10045.2.1"
ECDSA_WITH_SHA256 = "1.2.840.10045.4.3.2"
DAYS = 365

Point = tuple[int, int] | None  # None is the point at infinity


def _add(first: Point, second: Point) -> Point:
    if first is None or second is None:
        return first or second
    (x1, y1), (x2, y2) = first, second
    if x1 == x2 and (y1 + y2) % FIELD == 0:
        return None
    slope = (3 * x1 * x1 - 3) * pow(2 * y1, -1, FIELD) if first == second else (y2 - y1) * pow(x2 - x1, -1, FIELD)
    x = (slope * slope - x1 - x2) % FIELD
    return x, (slope * (x1 - x) - y1) % FIELD


def _times(scalar: int, point: Point) -> Point:
    total: Point = None
    while scalar:
        if scalar & 1:
            total = _add(total, point)
        point, scalar = _add(point, point), scalar >> 1
    return total


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = len(body)
    if size < 128:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 128 | len(length)]) + length + body


def _integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    encoded = bytearray([40 * first + second])
    for number in rest:
        septets = [number & 127]
        while number := number >> 7:
            septets.append(number & 127 | 128)
        encoded += bytes(reversed(septets))
    return _der(0x06, bytes(encoded))


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, *parts)


def _bits(value: bytes, unused: int = 0) -> bytes:
    return _der(0x03, bytes([unused]), value)


def _pem(label: str, der: bytes) -> str:
    text = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    return f"-----BEGIN {label}-----\n{text}\n-----END {label}-----\n"


class Key:
    """A private key on P-256."""

    def __init__(self) -> None:
        self._secret = secrets.randbelow(ORDER - 1) + 1
        public = _times(self._secret, BASE)
        assert public is not None
        self.public = b"\x04" + public[0].to_bytes(32, "big") + public[1].to_bytes(32, "big")

    @property
    def pem(self) -> str:
        """The key as SEC 1 writes it: what Go's and OpenSSL's readers call `EC PRIVATE KEY`."""
        secret = _der(0x04, self._secret.to_bytes(32, "big"))
        parameters, public = _der(0xA0, _oid(P256)), _der(0xA1, _bits(self.public))
        return _pem("EC PRIVATE KEY", _sequence(_integer(1), secret, parameters, public))

    @property
    def public_info(self) -> bytes:
        """SubjectPublicKeyInfo in DER."""
        return _sequence(_sequence(_oid(EC_PUBLIC_KEY), _oid(P256)), _bits(self.public))

    @property
    def identifier(self) -> bytes:
        """The subject key identifier by RFC 5280's first method."""
        return hashlib.sha1(self.public).digest()

    def sign(self, message: bytes) -> bytes:
        """An ECDSA signature over SHA-256 in DER."""
        digest = int.from_bytes(hashlib.sha256(message).digest(), "big")
        while True:
            nonce = secrets.randbelow(ORDER - 1) + 1
            point = _times(nonce, BASE)
            assert point is not None
            r = point[0] % ORDER
            s = pow(nonce, -1, ORDER) * (digest + r * self._secret) % ORDER
            if r and s:
                return _sequence(_integer(r), _integer(s))


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its key, both as PEM text."""

    certificate: str
    key: str


class Authority:
    """A certificate authority that lives as long as this object: its key is never written."""

    def __init__(self, name: str) -> None:
        self._key = Key()
        self._name = _name(name, ())
        is_authority = _extension("2.5.29.19", _sequence(_der(0x01, b"\xff")), critical=True)
        usage = _extension("2.5.29.15", _bits(b"\x06", 1), critical=True)  # keyCertSign, cRLSign
        self.certificate = self._certify(self._name, self._key, is_authority, usage)

    def issue(self, name: str, hosts: Sequence[str] = (), groups: Sequence[str] = ()) -> Issued:
        """A certificate for a server at these host names and addresses, or for a client of this name and groups."""
        key = Key()
        extensions = [
            _extension("2.5.29.19", _sequence(), critical=True),
            _extension("2.5.29.15", _bits(b"\x80", 7), critical=True),  # digitalSignature
            _extension("2.5.29.37", _sequence(_oid("1.3.6.1.5.5.7.3.1"), _oid("1.3.6.1.5.5.7.3.2"))),  # server, client
        ]
        if hosts:
            extensions.append(_extension("2.5.29.17", _sequence(*map(_alternative_name, hosts))))
        return Issued(self._certify(_name(name, groups), key, *extensions), key.pem)

    def _certify(self, subject: bytes, key: Key, *extensions: bytes) -> str:
        now = dt.datetime.now(dt.UTC)
        validity = _sequence(_time(now - dt.timedelta(hours=1)), _time(now + dt.timedelta(days=DAYS)))
        algorithm = _sequence(_oid(ECDSA_WITH_SHA256))
        subject_key = _extension("2.5.29.14", _der(0x04, key.identifier))
        authority_key = _extension("2.5.29.35", _sequence(_der(0x80, self._key.identifier)))
        body = _sequence(
            _der(0xA0, _integer(2)),  # version 3
            _integer(secrets.randbits(120) | 1),
            algorithm,
            self._name,
            validity,
            subject,
            key.public_info,
            _der(0xA3, _sequence(*extensions, subject_key, authority_key)),
        )
        return _pem("CERTIFICATE", _sequence(body, algorithm, _bits(self._key.sign(body))))


def _name(common_name: str, groups: Sequence[str]) -> bytes:
    fields = [("2.5.4.10", group) for group in groups] + [("2.5.4.3", common_name)]
    return _sequence(*(_der(0x31, _sequence(_oid(oid), _der(0x0C, text.encode()))) for oid, text in fields))


def _time(moment: dt.datetime) -> bytes:
    return _der(0x17, moment.strftime("%y%m%d%H%M%SZ").encode())


def _extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    return _sequence(_oid(oid), *([_der(0x01, b"\xff")] if critical else []), _der(0x04, value))


def _alternative_name(host: str) -> bytes:
    try:
        return _der(0x87, ipaddress.ip_address(host).packed)
    except ValueError:
        return _der(0x82, host.encode())
