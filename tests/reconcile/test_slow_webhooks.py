"""Admission webhooks may take ten seconds by default: a write waits for them as long as the Lease allows."""

from __future__ import annotations

import json
import ssl
import threading
import time
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from octavo_testing.api_client import until
from octavo_testing.certificates import Authority
from octavo_testing.child_processes import free_port
from octavo_testing.operator_runs import service, wait_for

GROUP = "admissionregistration.k8s.io/v1"


@pytest.fixture
def webhook(installed, namespace, tmp_path):
    """Registers a webhook that lets every new Deployment of the namespace pass, after so many seconds."""
    if not installed.own:
        installed.audit  # noqa: B018 - a person's cluster can't reach a server here: it says so, and skips
    authority, port, pause = Authority("webhook"), free_port(), [0.0]
    issued = authority.issue("webhook", ("127.0.0.1",))
    pem = tmp_path / "webhook.pem"
    pem.write_text(issued.key + issued.certificate)

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(pause[0])
            response = {"uid": asked["request"]["uid"], "allowed": True}
            body = json.dumps({**asked, "request": None, "response": response}).encode()
            try:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                pass  # who asked has given up

        def log_message(self, *_) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Answer)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def register(seconds: float, timeout: int) -> None:
        pause[0] = seconds
        rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}
        hook = {
            "name": "slow.example.com",
            "rules": [rule],
            "clientConfig": {
                "url": f"https://127.0.0.1:{port}/",
                "caBundle": b64encode(authority.certificate.encode()).decode(),
            },
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "timeoutSeconds": timeout,
        }
        kind = {"apiVersion": GROUP, "kind": "ValidatingWebhookConfiguration", "metadata": {"name": namespace}}
        installed.api.create({**kind, "webhooks": [hook]})
        time.sleep(1)  # API servers take a moment to know it; too little shows as a test that proves less

    yield register
    installed.api.delete(GROUP, "ValidatingWebhookConfiguration", namespace)
    server.shutdown()
    server.server_close()


def made(plane, namespace):
    return plane.api.find("apps/v1", "Deployment", "s", namespace)


@pytest.mark.slow
def test_a_webhook_that_takes_six_seconds_holds_nothing_up(installed, operator, namespace, webhook):
    """The first try goes through: its deadline is what is left of the Lease, twelve seconds or more."""
    webhook(6, 10)
    mark, began = installed.audit.mark(), time.monotonic()
    installed.api.create(service("s", namespace))
    until(lambda: made(installed, namespace), 20, "the Deployment is made")
    assert time.monotonic() - began > 5
    tries = [a for a in installed.audit.asked(since=mark) if a.resource == "deployments" and a.namespace == namespace]
    assert [a.status for a in tries if a.verb == "patch"] == [201]


def test_a_webhook_that_does_not_answer_is_reported_in_the_api_servers_words(installed, operator, namespace, webhook):
    """With the remedy; the other children are made meanwhile, and this one once the webhook is gone."""
    webhook(5, 1)
    installed.api.create(service("s", namespace))
    message = wait_for(installed, "s", namespace, "Ready", "False", "WebhookFailed")["message"]
    assert 'failed calling webhook "slow.example.com"' in message
    assert "exempt the namespace" in message
    assert installed.api.find("v1", "Service", "s", namespace) is not None
    installed.api.delete(GROUP, "ValidatingWebhookConfiguration", namespace)
    until(lambda: made(installed, namespace), 70, "it is tried again")


@pytest.mark.slow
def test_a_webhook_slower_than_the_lease_allows_is_reported(installed, operator, namespace, webhook):
    """The write is given up before another replica could hold the Lease, and the status says where to look."""
    webhook(25, 30)
    installed.api.create(service("s", namespace))
    message = wait_for(installed, "s", namespace, "Ready", "False", "NoAnswer", seconds=40)["message"]
    assert "Deployment s: " in message
    assert "admission webhook" in message
