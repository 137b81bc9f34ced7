"""custom.metrics.k8s.io as clients of a real API server see it: found, described, answered, and guarded."""

from __future__ import annotations

import json
import time

import pytest
from metrics_api_runs import PERIOD_S, SERVICE, be_engine, get, said, values
from octavo_testing.api_client import ApiError, until
from octavo_testing.certificates import Authority

WAITING, RUNNING = "vllm_num_requests_waiting", "octavo_requests_running"
STALE_S = 3 * PERIOD_S


@pytest.fixture
def queue(engines, pods_of, kubelet):
    """Two engines that answer, with 3 and 12 requests waiting: (engines, names)."""
    made = engines(2)
    made[0].waiting, made[1].waiting = 3, 12
    pods = pods_of("m", 2, made[0].port)
    return made, [be_engine(kubelet, pod, engine) for pod, engine in zip(pods, made, strict=True)]


def raw(plane, path):
    return json.loads(plane.kubectl("get", "--raw", path))


def test_discovery_names_the_group_its_versions_and_every_figure(served, installed):
    """kubectl lists them without a complaint, and prefers the newer version."""
    group = next(g for g in raw(installed, "/apis")["groups"] if g["name"] == "custom.metrics.k8s.io")
    assert group["preferredVersion"]["version"] == "v1beta2"
    assert [each["version"] for each in group["versions"]] == ["v1beta2", "v1beta1"]
    for version in ("v1beta1", "v1beta2"):
        resources = raw(installed, f"/apis/custom.metrics.k8s.io/{version}")["resources"]
        names = {each["name"] for each in resources}
        assert {f"pods/{WAITING}", f"llmservices.octavo.dev/{RUNNING}"} <= names
    listed = installed.kubectl("api-resources", "--api-group", "octavo.dev")
    assert "llmservices" in listed
    assert "rror" not in listed
    assert "memcache" not in listed


def test_openapi_documents_are_merged_by_the_aggregator(served, installed):
    """In versions 2 and 3; kubectl explain finds the fields."""
    path = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/{namespace}/{resource}/{name}/{metric}"
    until(lambda: path in raw(installed, "/openapi/v2")["paths"], 60, "OpenAPI v2 is merged", pause=1)
    until(lambda: "apis/custom.metrics.k8s.io/v1beta2" in raw(installed, "/openapi/v3")["paths"], 60, pause=1)
    document = raw(installed, "/openapi/v3/apis/custom.metrics.k8s.io/v1beta2")
    schemas = document["components"]["schemas"]
    value = next(schema for name, schema in schemas.items() if name.endswith("MetricValue"))
    assert "windowSeconds" in value["properties"]
    explained = raw(installed, "/openapi/v3/apis/custom.metrics.k8s.io/v1beta1")["components"]["schemas"]
    assert any("metricName" in schema["properties"] for schema in explained.values())


def test_pods_are_answered_by_star_with_selectors_and_by_name(served, installed, namespace, queue):
    """labelSelector chooses pods, metricLabelSelector series; both versions, quantities and times as they should be."""
    engines, names = queue
    expected = dict(zip(names, ["3", "12"], strict=True))
    until(lambda: values(installed, namespace, WAITING) == expected, 20)
    assert values(installed, namespace, WAITING, labelSelector="octavo.dev/service=m") == expected
    assert values(installed, namespace, WAITING, labelSelector="octavo.dev/service!=m") == {}
    assert values(installed, namespace, WAITING, metricLabelSelector="engine=0,model_name in (m)") == expected
    assert values(installed, namespace, WAITING, metricLabelSelector="engine=1") == {}
    [item] = get(installed, f"/namespaces/{namespace}/pods/{names[1]}/{WAITING}")["items"]
    assert (item["value"], item["windowSeconds"], item["metric"]["name"]) == ("12", 0, WAITING)
    at = time.mktime(time.strptime(item["timestamp"], "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
    assert abs(time.time() - at) < STALE_S + 2
    older = installed.api.request(
        "GET", f"/apis/custom.metrics.k8s.io/v1beta1/namespaces/{namespace}/pods/{names[0]}/{WAITING}"
    )
    assert (older["items"][0]["metricName"], older["items"][0]["value"]) == (WAITING, "3")
    engines[0].kv_use = 0.4375
    until(lambda: values(installed, namespace, "octavo_kv_cache_usage_ratio")[names[0]] == "438m", 10)


def test_a_service_is_answered_with_the_sum_of_its_engines(served, installed, namespace, queue):
    """For autoscalers of type Object; while one engine is unknown there is no sum."""
    path = f"/namespaces/{namespace}/llmservices.octavo.dev/m/{WAITING}"

    def total():
        try:
            return get(installed, path)["items"][0]["value"]
        except ApiError as error:
            return None if error.status == 404 else error

    until(lambda: total() == "15", 20)
    queue[0][0].hangs = True
    until(lambda: total() is None, 20)


def test_tokens_a_second_are_a_rate_over_a_stated_window(served, installed, namespace, queue):
    """100 tokens each half second are 200 a second."""
    engines, names = queue
    began = time.monotonic()

    def rate():
        engines[0].tokens = 200 * (time.monotonic() - began)
        items = get(installed, f"/namespaces/{namespace}/pods/*/vllm_generation_tokens_per_second")["items"]
        found = {each["describedObject"]["name"]: each for each in items}.get(names[0])
        return found if found and found["windowSeconds"] >= 3 else None

    found = until(rate, 30, pause=0.02)
    value = found["value"]
    number = float(value.removesuffix("m")) / (1000 if value.endswith("m") else 1)
    assert 150 < number < 250


def test_one_that_hangs_fails_or_loads_is_left_out_and_holds_up_no_other(
    served, installed, namespace, engines, pods_of, kubelet
):
    """The other's values go on being fresh, and answers come at once."""
    well, hangs, fails, mute, loads = engines(5)
    pods = pods_of("m", 5, well.port)
    hangs.hangs, fails.status, mute.waiting = True, 500, None
    for pod, engine in zip(pods, (well, hangs, fails, mute, loads), strict=True):
        be_engine(kubelet, pod, engine, ready=engine is not loads)
    name = pods[0]["metadata"]["name"]
    until(lambda: values(installed, namespace, WAITING) == {name: "0"}, 20)
    for waiting in (5, 6, 7):
        well.waiting = waiting
        until(lambda: values(installed, namespace, WAITING) == {name: str(waiting)}, STALE_S + 3)  # noqa: B023
    began = time.monotonic()
    assert values(installed, namespace, WAITING) == {name: "7"}
    assert time.monotonic() - began < 1
    assert loads.asked == 0
    assert set(values(installed, namespace, RUNNING)) == {name, pods[3]["metadata"]["name"]}

    def warned():
        lines = [each for each in said(served[0].log) if each.get("namespace") == namespace]
        return sorted(each["name"] for each in lines if "not served" in each["message"])

    in_trouble = sorted(pods[index]["metadata"]["name"] for index in (1, 2))
    until(lambda: warned() == in_trouble, 10)
    asked = fails.asked
    until(lambda: fails.asked > asked, 10)
    assert warned() == in_trouble  # once, and not for each try


def test_a_value_that_grows_old_is_no_longer_served_and_comes_back(served, installed, namespace, queue):
    """An engine that stops answering is unknown within seconds, not idle."""
    engines, names = queue
    until(lambda: len(values(installed, namespace, WAITING)) == 2, 20)
    engines[1].hangs = True
    began = time.monotonic()
    until(lambda: set(values(installed, namespace, WAITING)) == {names[0]}, 20)
    assert time.monotonic() - began < STALE_S + 5
    engines[1].hangs = False
    engines[1]._go.set()
    until(lambda: len(values(installed, namespace, WAITING)) == 2, 40)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("pods/*/no_such_metric", 404, "there is no metric no_such_metric"),
        (f"pods/nobody/{WAITING}", 404, "has no value of"),
        (f"llmservices.octavo.dev/nobody/{WAITING}", 404, "has no value of"),
        (f"services/x/{WAITING}", 404, "metrics are of pods"),
        (f"pods/*/{WAITING}?labelSelector=a%3E1", 400, "can't be read from"),
    ],
)
def test_what_is_not_there_is_said_in_kubernetes_own_form(served, installed, namespace, path, status, words):
    """With what there is, or what may be the matter."""
    with pytest.raises(ApiError, match=words) as caught:
        get(installed, f"/namespaces/{namespace}/{path}")
    assert caught.value.status == status
    assert caught.value.body["kind"] == "Status"


def test_a_known_metric_without_a_value_is_an_empty_list(served, installed, namespace):
    """Nothing is known of an empty namespace: no error, and no zero."""
    answer = get(installed, f"/namespaces/{namespace}/pods/*/{WAITING}")
    assert answer["items"] == []


def headers(name, *groups):
    return {"X-Remote-User": name, "X-Remote-Group": groups[0] if groups else "none"}


def test_the_front_proxys_headers_count_only_with_its_certificate(served, installed, namespace, tmp_path):
    """The certificate must be of the right authority and with an allowed name; no other client can claim to be an
    administrator.
    """
    server, path = served[0], f"/apis/custom.metrics.k8s.io/v1beta2/namespaces/{namespace}/pods/*/{WAITING}"
    admin = headers("somebody", "system:masters")
    proxy = (installed.folder / "front-proxy.crt", installed.folder / "front-proxy.key")
    assert server.ask(path, admin)[0] == 401
    other = installed.authority.issue("not-the-front-proxy")
    files = (tmp_path / "crt", tmp_path / "key")
    for file, text in zip(files, (other.certificate, other.key), strict=True):
        file.write_text(text)
    assert server.ask(path, admin, files)[0] == 401
    assert server.ask(path, admin, proxy)[0] == 200
    assert server.ask(path, headers("somebody"), proxy)[0] == 403
    assert server.ask(path, {}, proxy)[0] == 401


def test_a_new_authority_of_the_front_proxy_is_trusted_without_a_restart(served, installed, namespace, tmp_path):
    """The API server publishes it beside the old one before its proxy shows a certificate of it."""
    server, path = served[0], f"/apis/custom.metrics.k8s.io/v1beta2/namespaces/{namespace}/pods/*/{WAITING}"
    authority = Authority("rotated")
    issued = authority.issue("front-proxy-client")
    files = (tmp_path / "crt", tmp_path / "key")
    for file, text in zip(files, (issued.certificate, issued.key), strict=True):
        file.write_text(text)
    assert server.ask(path, headers("somebody", "system:masters"), files)[0] == 0  # the handshake fails
    config = installed.api.get("v1", "ConfigMap", "extension-apiserver-authentication", "kube-system")
    both = config["data"]["requestheader-client-ca-file"] + authority.certificate
    change = {"data": {"requestheader-client-ca-file": both}}
    installed.api.patch("v1", "ConfigMap", "extension-apiserver-authentication", "kube-system", change)
    until(lambda: server.ask(path, headers("somebody", "system:masters"), files)[0] == 200, 30, pause=0.5)
    assert get(installed, f"/namespaces/{namespace}/pods/*/{WAITING}")["items"] == []  # the old one still is


@pytest.mark.slow
def test_a_user_with_a_token_needs_the_right_to_get_the_metric(served, installed, namespace):
    """Asked directly: TokenReview, then SubjectAccessReview, for this very metric, in this namespace."""
    api, server = installed.api, served[0]
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader", "namespace": namespace}}
    api.create(account)
    bearer = {"Authorization": f"Bearer {installed.service_account_token(namespace, 'reader')}"}
    base = "/apis/custom.metrics.k8s.io/v1beta2"
    path = f"{base}/namespaces/{namespace}/pods/*/{WAITING}"
    assert server.ask(path, {"Authorization": "Bearer nonsense"})[0] == 401
    assert server.ask(base, bearer)[0] == 200  # any authenticated client may discover
    code, text = server.ask(path, bearer)
    assert (code, json.loads(text)["reason"]) == (403, "Forbidden")
    with pytest.raises(ApiError, match="Forbidden"):
        get(installed, f"/namespaces/{namespace}/pods/*/{WAITING}", user=f"{namespace}/reader")
    group = "rbac.authorization.k8s.io"
    rule = {"apiGroups": ["custom.metrics.k8s.io"], "resources": [f"pods/{WAITING}"], "verbs": ["get"]}
    named = {"metadata": {"name": "reader", "namespace": namespace}}
    api.create({"apiVersion": f"{group}/v1", "kind": "Role", **named, "rules": [rule]})
    reference = {"apiGroup": group, "kind": "Role", "name": "reader"}
    subject = {"kind": "ServiceAccount", "name": "reader", "namespace": namespace}
    binding = {"apiVersion": f"{group}/v1", "kind": "RoleBinding", **named, "roleRef": reference, "subjects": [subject]}
    api.create(binding)
    until(lambda: server.ask(path, bearer)[0] == 200, 30, "the refusal that was kept has run out", pause=0.5)
    assert server.ask(path.replace(WAITING, RUNNING), bearer)[0] == 403
    assert get(installed, f"/namespaces/{namespace}/pods/*/{WAITING}", user=f"{namespace}/reader")["items"] == []


def test_only_health_is_answered_without_credentials(served):
    """Health is answered to GET alone."""
    server = served[0]
    assert [server.ask(path)[0] for path in ("/healthz", "/livez", "/readyz")] == [200, 200, 200]
    assert [server.ask(path)[0] for path in ("/", "/apis", "/openapi/v2", "/metrics")] == [401, 401, 401, 401]


def test_the_services_address_is_in_the_certificate(served, installed):
    """The aggregator verifies it against the bundle that is announced."""
    found = installed.api.get("apiregistration.k8s.io/v1", "APIService", "v1beta2.custom.metrics.k8s.io")
    assert found["spec"]["service"] == {"namespace": "octavo-system", "name": SERVICE, "port": 443}
    assert "insecureSkipTLSVerify" not in found["spec"]
