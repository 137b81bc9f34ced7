"""Finds in `engine.args` the flags that have the engine serve HTTPS: no field of the manifest repeats them."""

from __future__ import annotations

from octavo_operator.api.engine import Engine
from octavo_operator.api.reasons import SpecReason
from octavo_operator.api.refusal import Refusal
from octavo_operator.planner.given_flags import values
from octavo_operator.planner.plan import Tls
from octavo_operator.runtimes import runtime_of

CERTIFICATE, KEY, CLIENTS = "--ssl-certfile", "--ssl-keyfile", "--ssl-cert-reqs"
REQUIRED = "2"  # ssl.CERT_REQUIRED


def tls_of(engine: Engine) -> Tls | None:
    """The files that it serves HTTPS with; None where it serves plain HTTP."""
    given = values(engine.args)
    certificate = given.get(CERTIFICATE)
    return None if certificate is None or not runtime_of(engine).serves_tls else Tls(certificate, given.get(KEY))


def refusal(engine: Engine) -> Refusal | None:
    """A port that requires clients' certificates is closed to the kubelet, which has none."""
    if tls_of(engine) is None or values(engine.args).get(CLIENTS) != REQUIRED:
        return None
    return Refusal(
        SpecReason.CLIENT_CERTIFICATES,
        f"engine.args: {CLIENTS} {REQUIRED} closes the port to the kubelet's probes and to the queue's scrapes, which "
        "bring no certificate",
        f"set {CLIENTS} 1, and restrict clients by auth.apiKeys or networkPolicy",
    )
