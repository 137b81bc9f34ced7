"""Flags in `engine.args` that turn TLS on are seen, and everything that talks to the engine follows."""

from __future__ import annotations

import asyncio
import ssl

import aiohttp
import pytest
from aiohttp import web
from octavo_testing.certificates import Authority
from octavo_testing.children_cases import only, pod_of, rendered
from octavo_testing.planner_cases import planned

from octavo_operator.metrics_api.engines import engine_of
from octavo_operator.metrics_api.scraper import ScrapeError, scrape
from octavo_operator.planner.plan import Tls

FILES = ["--ssl-certfile", "/tls/tls.crt", "--ssl-keyfile", "/tls/tls.key"]


@pytest.mark.parametrize(
    ("args", "found"),
    [
        ([], None),
        (FILES, Tls("/tls/tls.crt", "/tls/tls.key")),
        (["--ssl_certfile=/both.pem"], Tls("/both.pem", None)),
        (["--ssl-certfile", "/old", "--ssl-certfile=/new"], Tls("/new", None)),
        (["--ssl-keyfile", "/tls/tls.key"], None),
        (["--enable-ssl-refresh"], None),
    ],
)
@pytest.mark.parametrize("runtime", ["octavo", "vllm"])
def test_the_certificates_flag_turns_tls_on(args, found, runtime):
    """Spelled with dashes or underscores, as one word or two; the last one counts."""
    engine = planned(None, engine={"runtime": runtime, "args": args}).engine
    assert (engine.tls, engine.scheme) == (found, "http" if found is None else "https")


def test_certificates_required_of_clients_are_refused_with_the_remedy():
    """The kubelet has none to show: no replica would ever be ready."""
    refusal = planned(None, engine={"args": [*FILES, "--ssl-cert-reqs", "2"]}).refusal
    assert (refusal.reason, refusal.remedy.partition(",")[0]) == ("ClientCertificatesRequired", "set --ssl-cert-reqs 1")
    assert planned(None, engine={"args": [*FILES, "--ssl-cert-reqs", "1"]}).refusal is None
    assert (
        planned(None, engine={"args": ["--ssl-cert-reqs", "2"]}).refusal is None
    )  # the engine says that it serves none


@pytest.mark.parametrize("args", [["--config", "/etc/flags.yaml"], ["--config=/etc/flags.yaml"]])
def test_a_file_of_flags_is_refused_since_the_plan_does_not_see_it(args):
    """The certificate could stand in it, and probes would ask in plain HTTP."""
    for runtime in ("octavo", "vllm"):
        refusal = planned(None, engine={"runtime": runtime, "args": args}).refusal
        assert (refusal.reason, "remove --config" in refusal.remedy) == ("ArgumentsInFile", True)


@pytest.mark.parametrize("args", [[], FILES])
def test_probes_service_and_monitor_follow(args):
    """A plain service's objects stay as they were, so that an upgrade changes no pod."""
    children = rendered(engine={"args": args})
    (engine,) = [each for each in pod_of(children)["containers"] if each["name"] == "engine"]
    probes = [engine[f"{kind}Probe"]["httpGet"].get("scheme") for kind in ("startup", "readiness", "liveness")]
    (port,) = only(children, "Service")["spec"]["ports"]
    (endpoint,) = only(children, "ServiceMonitor")["spec"]["endpoints"]
    seen = (set(probes), port.get("appProtocol"), endpoint.get("scheme"), endpoint.get("tlsConfig"))
    assert seen == (({"HTTPS"}, "https", "https", {"insecureSkipVerify": True}) if args else ({None}, None, None, None))


@pytest.mark.parametrize("args", [[], FILES])
async def test_the_queue_is_scraped_by_the_scheme_of_the_readiness_probe(args, tmp_path):
    """The API server completes a probe without a scheme to HTTP."""
    issued = Authority("an authority").issue("svc.ns.svc", ["svc.ns.svc"])  # as its certificate is: not for the address
    (tmp_path / "both.pem").write_text(issued.certificate + issued.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "both.pem")

    async def metrics(_request):
        return web.Response(text="vllm:num_requests_waiting 3\n")

    application = web.Application()
    application.router.add_get("/metrics", metrics)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context if args else None)
    await site.start()
    port = runner.addresses[0][1]

    spec = pod_of(rendered(engine={"args": args}))
    for container in spec["containers"]:
        if container["name"] == "engine":
            container["ports"][0]["containerPort"] = port
            container["readinessProbe"]["httpGet"].setdefault("scheme", "HTTP")
    engine = engine_of(
        {
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": spec,
            "status": {"phase": "Running", "podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
        }
    )
    async with aiohttp.ClientSession() as session:
        found = await scrape(session, engine)
        assert [sample.value for sample in found["vllm:num_requests_waiting"]] == [3]
        await runner.cleanup()
        with pytest.raises(ScrapeError):
            await scrape(session, engine)
    await asyncio.sleep(0)
