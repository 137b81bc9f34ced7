"""The metrics API is announced to the API server, and an announcement never outlives the pods that serve it."""

from __future__ import annotations

import base64
import datetime as dt
import socket
import time

import pytest
from metrics_api_runs import (
    APISERVICES,
    NAMES,
    NAMESPACE,
    SERVICE,
    SLICE,
    MetricsApi,
    available,
    get,
    install,
    serving,
    set_endpoint,
)
from octavo_testing.api_client import ApiError, until
from octavo_testing.operator_runs import ACCOUNT, Operator, conditions, service, wait_for

from octavo_operator.metrics_api.serving_certificate import ServingCertificate, current, from_data

SECRET = "octavo-metrics-api-tls"


def announced(plane):
    return [name for name in NAMES if plane.api.find(*APISERVICES, name)]


def new_namespace(plane):
    made = plane.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "gone-"}})
    name = made["metadata"]["name"]
    until(lambda: plane.api.find("v1", "ServiceAccount", "default", name), 20)
    return name


def stuck(plane, namespace):
    """The reason why a namespace that is being deleted does not go."""
    found = plane.api.find("v1", "Namespace", namespace)
    conditions = (found or {}).get("status", {}).get("conditions", ())
    return any(each["type"] == "NamespaceDeletionDiscoveryFailure" and each["status"] == "True" for each in conditions)


@pytest.mark.slow
def test_an_orderly_end_takes_the_announcement_away_and_namespaces_go(installed, tmp_path):
    """Scaled to zero: the last process removes the APIServices, so nothing waits for them."""
    with serving(installed, tmp_path) as (server, operator):
        assert operator.end() == 0
        assert announced(installed) == list(NAMES)  # another one may lead soon
        assert server.end() == 0
        assert announced(installed) == []
        name = new_namespace(installed)
        installed.api.delete("v1", "Namespace", name)
        until(lambda: installed.api.find("v1", "Namespace", name) is None, 30, "the namespace goes")


@pytest.mark.slow
def test_while_another_replica_serves_the_announcement_stays(installed, tmp_path):
    """A rolling update of the operator is no gap."""
    with serving(installed, tmp_path) as (server, _):
        set_endpoint(installed, server.port, pod="another-replica")
        assert server.end() == 0
        assert announced(installed) == list(NAMES)


@pytest.mark.slow
def test_a_dead_one_hangs_namespaces_and_the_leader_takes_it_away(installed, tmp_path):
    """Killed without a word: the fault is real, and it heals as soon as the endpoints know."""
    with serving(installed, tmp_path) as (server, _):
        server.kill()
        name = new_namespace(installed)
        until(lambda: not available(installed, NAMES[0]), 60, "the aggregator notices")
        installed.api.delete("v1", "Namespace", name)
        until(lambda: stuck(installed, name), 60, "the deletion waits for the dead API")
        set_endpoint(installed, server.port, ready=False)
        until(lambda: announced(installed) == [], 60, "the leader withdraws it")
        until(lambda: installed.api.find("v1", "Namespace", name) is None, 60, "the namespace goes")


@pytest.mark.slow
def test_an_uninstall_takes_it_away_though_the_rights_go_first(installed, tmp_path):
    """The ClusterRole owns the APIServices: the garbage collector removes them, without a process of the operator."""
    with serving(installed, tmp_path) as (server, operator):
        server.kill()
        operator.kill()
        installed.api.delete("rbac.authorization.k8s.io/v1", "ClusterRole", "octavo-operator-metrics-api")
        try:
            until(lambda: announced(installed) == [], 60, "the garbage collector removes them")
        finally:
            install(installed)


@pytest.mark.slow
def test_another_adapters_group_is_left_alone_and_the_condition_says_so(installed, namespace, tmp_path):
    """What was there first stays to the byte; what is to be done is said where the user looks."""
    adapter = {
        "apiVersion": APISERVICES[0],
        "kind": APISERVICES[1],
        "metadata": {"name": NAMES[1]},
        "spec": {
            "group": "custom.metrics.k8s.io",
            "version": "v1beta1",
            "service": {"namespace": "monitoring", "name": "prometheus-adapter", "port": 443},
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
        },
    }
    before = installed.api.create(adapter)
    operator = Operator(installed.kubeconfig(ACCOUNT), tmp_path / "operator.log", "--metrics-api", "Auto")
    server = MetricsApi(installed.kubeconfig(ACCOUNT), tmp_path / "metrics-api.log")
    try:
        operator.wait_ready()
        server.wait_ready()
        set_endpoint(installed, server.port)
        installed.api.create(service("s", namespace, autoscaling={"minReplicas": 1, "maxReplicas": 3}))
        message = until(lambda: condition_with(installed, namespace, "prometheus-adapter"), 60)
        assert "monitoring/prometheus-adapter, which is left alone" in message
        assert "config/autoscaling" in message
        assert announced(installed) == [NAMES[1]]
        after = installed.api.get(*APISERVICES, NAMES[1])
        assert (after["spec"], after["metadata"]["uid"]) == (before["spec"], before["metadata"]["uid"])
        # It goes: the group is free, and taken within seconds.
        installed.api.delete(*APISERVICES, NAMES[1])
        until(lambda: announced(installed) == list(NAMES), 40)
        until(lambda: "left alone" not in conditions(installed, "s", namespace)["Autoscaling"]["message"], 30)
    finally:
        for each in (server, operator):
            each.kill()
        installed.api.delete(*SLICE, "octavo-metrics-api-tests", NAMESPACE)
        for name in NAMES:
            installed.api.delete(*APISERVICES, name)


def condition_with(plane, namespace, word):
    message = conditions(plane, "s", namespace).get("Autoscaling", {}).get("message", "")
    return message if word in message else None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "reason", "words"),
    [
        (["--namespace", "{}"], "MetricsApiNamespaced", "serves no metrics API"),
        (["--metrics-api", "Disabled"], "MetricsApiDisabled", "is switched off"),
    ],
)
def test_an_operator_without_the_metrics_api_says_so(installed, namespace, tmp_path, arguments, reason, words):
    """The autoscaler finds no metrics; the condition has the reason, and the alternatives."""
    given = [each.format(namespace) for each in arguments]
    operator = Operator(installed.kubeconfig(ACCOUNT), tmp_path / "operator.log", *given)
    try:
        operator.wait_ready()
        installed.api.create(service("s", namespace, autoscaling={"minReplicas": 1, "maxReplicas": 3}))
        found = wait_for(installed, "s", namespace, "Autoscaling", "False", reason, seconds=60)
        assert words in found["message"]
        assert "config/autoscaling" in found["message"]
        assert announced(installed) == []
    finally:
        operator.kill()


def held(plane):
    data = plane.api.get("v1", "Secret", SECRET, NAMESPACE)["data"]
    return from_data({key: base64.b64decode(value) for key, value in data.items()})


@pytest.mark.slow
def test_a_certificate_that_is_due_is_renewed_without_a_restart_or_a_failed_request(installed, namespace, tmp_path):
    """The same authority signs the new one in good time, the same process presents it, and every answer comes."""
    path = f"/namespaces/{namespace}/pods/*/vllm_num_requests_waiting"
    with serving(installed, tmp_path) as (server, operator):
        now, used = dt.datetime.now(dt.UTC), held(installed)
        hosts = [f"octavo-metrics-api.{NAMESPACE}.svc", f"octavo-metrics-api.{NAMESPACE}.svc.cluster.local"]
        empty = ServingCertificate(b"", b"", used.authorities, used.authority_key)
        due = current(empty, [*hosts, "octavo-metrics-api"], now - dt.timedelta(days=61))
        data = {key: base64.b64encode(value).decode() for key, value in due.data().items()}
        installed.api.patch("v1", "Secret", SECRET, NAMESPACE, {"data": data})
        presented, answers = set(), 0

        def renewed():
            nonlocal answers
            answers += get(installed, path)["kind"] == "MetricValueList"
            presented.add(server.certificate().strip())
            return not {due.certificate, used.certificate} & {held(installed).certificate} and (
                held(installed).certificate.decode().strip() in presented
            )

        until(renewed, 60, "the renewed certificate is presented", pause=0.2)
        assert held(installed).authorities == used.authorities
        assert answers > 3
        assert server.process.poll() is None
        assert operator.process.poll() is None


@pytest.mark.slow
def test_a_secret_that_was_lost_is_made_again_and_its_authority_announced(installed, namespace, tmp_path):
    """The key is new too: the same process presents the new certificate, and its authority is announced to the API
    server.
    """
    path = f"/namespaces/{namespace}/pods/*/vllm_num_requests_waiting"
    with serving(installed, tmp_path) as (server, _):
        first = server.certificate()
        installed.api.delete("v1", "Secret", SECRET, NAMESPACE)
        until(lambda: server.certificate() != first, 60, "another certificate is presented", pause=0.5)
        secret = installed.api.get("v1", "Secret", SECRET, NAMESPACE)
        assert server.certificate().strip() == held(installed).certificate.decode().strip()
        until(lambda: installed.api.get(*APISERVICES, NAMES[0])["spec"]["caBundle"] == secret["data"]["ca.crt"], 20)

        def answered():
            try:
                return get(installed, path)["kind"] == "MetricValueList"
            except ApiError:
                return False

        until(answered, 30, "the API server trusts the new one")


@pytest.mark.slow
def test_given_files_are_presented_and_read_again_when_they_change(installed, tmp_path):
    """cert-manager renews such files; their authority is announced as it is given, and no Secret is made."""
    hosts = ("octavo-metrics-api.octavo-system.svc",)
    folder = tmp_path / "certs"
    folder.mkdir()

    def write():
        issued = installed.authority.issue("octavo-metrics-api", hosts)
        (folder / "tls.crt").write_text(issued.certificate)
        (folder / "tls.key").write_text(issued.key)
        return issued.certificate.strip()

    first = write()
    (folder / "ca.crt").write_text(installed.authority.certificate)
    installed.api.delete("v1", "Secret", SECRET, NAMESPACE)
    ca = ["--metrics-api-ca-file", str(folder / "ca.crt")]
    kubeconfig = installed.kubeconfig(ACCOUNT)
    operator = Operator(kubeconfig, tmp_path / "operator.log", "--metrics-api", "Auto", *ca)
    server = MetricsApi(kubeconfig, tmp_path / "metrics-api.log", "--cert-dir", str(folder))
    try:
        operator.wait_ready()
        server.wait_ready()
        set_endpoint(installed, server.port)
        until(lambda: all(available(installed, name) for name in NAMES), 60)
        assert server.certificate().strip() == first
        second = write()
        until(lambda: server.certificate().strip() == second, 30, pause=0.5)
        assert installed.api.find("v1", "Secret", SECRET, NAMESPACE) is None
    finally:
        for each in (server, operator):
            each.kill()
        installed.api.delete(*SLICE, "octavo-metrics-api-tests", NAMESPACE)
        for name in NAMES:
            installed.api.delete(*APISERVICES, name)


@pytest.mark.slow
def test_an_idle_announcement_writes_nothing(installed, tmp_path):
    """The announcement is read, and left as it is."""
    with serving(installed, tmp_path) as (_, _operator):
        time.sleep(3)
        mark = installed.audit.mark()
        time.sleep(25)
        user = "system:serviceaccount:octavo-system:octavo-operator"
        asked = [each for each in installed.audit.asked(user, mark) if each.verb not in {"get", "list", "watch"}]
        assert {each.resource for each in asked} <= {"leases", "subjectaccessreviews", "tokenreviews"}


@pytest.mark.slow
def test_what_the_api_server_can_not_reach_is_withdrawn_within_a_minute_and_tried_again(
    installed, namespace, tmp_path, record_property
):
    """A firewall that drops packets: the endpoints are ready, and no namespace can be deleted while it is announced."""
    kubeconfig = installed.kubeconfig(ACCOUNT)
    operator = Operator(kubeconfig, tmp_path / "operator.log", "--metrics-api", "Auto")
    server = MetricsApi(kubeconfig, tmp_path / "metrics-api.log")
    with socket.create_server(("", 0)) as silent:  # takes connections, and never says a word
        try:
            operator.wait_ready()
            server.wait_ready()
            port = silent.getsockname()[1]
            set_endpoint(installed, port)
            installed.api.create(service("s", namespace, autoscaling={"maxReplicas": 2}))
            until(lambda: announced(installed), 30, "it is announced")
            began = time.monotonic()
            until(lambda: announced(installed) == [], 60, "it is withdrawn")
            record_property("withdrawn_s", round(time.monotonic() - began, 1))
            gone = new_namespace(installed)
            installed.api.delete("v1", "Namespace", gone)
            until(lambda: installed.api.find("v1", "Namespace", gone) is None, 30, "namespaces can be deleted")

            def reported():
                message = conditions(installed, "s", namespace).get("Autoscaling", {}).get("message", "")
                return f"port {port}" in message and "firewall" in message

            until(reported, 20, "the condition names port and remedy")
            set_endpoint(installed, server.port)
            until(lambda: all(available(installed, name) for name in NAMES), 90, "it is announced once it is reached")
            until(
                lambda: "firewall" not in str(conditions(installed, "s", namespace)), 30, "the condition is withdrawn"
            )
        finally:
            for each in (server, operator):
                each.kill()
            installed.api.delete(*SLICE, f"{SERVICE}-tests", NAMESPACE)
            for name in NAMES:
                installed.api.delete(*APISERVICES, name)
