"""`python -m octavo_operator`: waits for the Lease, then watches and reconciles until SIGTERM.

Exit status: 0 ended in order; 1 gave up, or lost the Lease; 2 no API server is known or an argument is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if os.getpid() == 1:
    # A container's first process has no default action: until the loop listens to signals, one would be lost.
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))

from octavo_operator.api.metrics_source import DISABLED, NAMESPACED, UNKNOWN
from octavo_operator.api.resources import SECURITY_CONSTRAINTS
from octavo_operator.cluster.connection import Connection, connect
from octavo_operator.controller.work_queue import Seen
from octavo_operator.errors import NoClusterError, OperatorError
from octavo_operator.logs import add_flags, set_up
from octavo_operator.runtimes import IMAGE_KEYS
from octavo_operator.settings import Settings

log = logging.getLogger("octavo_operator")

if TYPE_CHECKING:
    from octavo_operator.cluster.client import Cluster
    from octavo_operator.cluster.leader import LeaseThread

LOST = 1
RETRY_S = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    set_up(options.log_format, options.log_level)
    try:
        connection = connect()
    except NoClusterError as error:
        log.error("%s", error)  # noqa: TRY400 — a sentence, not a traceback
        return 2
    with asyncio.Runner() as runner:
        return runner.run(_run(connection, options))


async def _run(connection: Connection, options: argparse.Namespace) -> int:
    # aiohttp, kopf and what they bring along: --help need not wait for them.
    from aiohttp import web  # noqa: PLC0415

    from octavo_operator.cluster.client import Cluster  # noqa: PLC0415
    from octavo_operator.cluster.leader import LeaseThread  # noqa: PLC0415
    from octavo_operator.controller.health import Health  # noqa: PLC0415
    from octavo_operator.controller.scale_in import ScaleIn  # noqa: PLC0415
    from octavo_operator.controller.watchers import Watchers  # noqa: PLC0415
    from octavo_operator.controller.work_queue import WorkQueue  # noqa: PLC0415
    from octavo_operator.controller.workers import Workers  # noqa: PLC0415
    from octavo_operator.metrics_api.announcement import Announcement  # noqa: PLC0415
    from octavo_operator.reconcile.capacity_feed import CapacityFeed  # noqa: PLC0415
    from octavo_operator.reconcile.kinds_seen import KindsSeen  # noqa: PLC0415
    from octavo_operator.reconcile.metrics import Metrics  # noqa: PLC0415
    from octavo_operator.reconcile.reconciler import Reconciler  # noqa: PLC0415
    from octavo_operator.reconcile.rivals import Rivals  # noqa: PLC0415
    from octavo_operator.reconcile.turns import Turns  # noqa: PLC0415
    from octavo_operator.reconcile.upgrades.campaign import Campaign  # noqa: PLC0415
    from octavo_operator.reconcile.upgrades.upgrades import Upgrades  # noqa: PLC0415

    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    identity = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
    namespace = options.leader_election_namespace or connection.namespace
    metrics, queue = Metrics(), WorkQueue()
    lease = LeaseThread(connection, namespace, identity)
    leader = lease.leader
    cluster = Cluster(
        connection, write_s=leader.fence, on_write=lambda kind, verb: metrics.writes.labels(kind, verb).inc()
    )
    feed = None if options.namespace else CapacityFeed(cluster)

    def due(seen: Seen) -> None:
        loop.call_soon_threadsafe(health.take, seen)

    watchers = Watchers(cluster, connection, options.namespace, due, metrics)
    kinds = KindsSeen(lambda: watchers.monitors)
    health = Health(leader, watchers, queue, metrics, kinds)
    settings = Settings(operator_namespace=namespace)
    settings.images.update(options.image)
    settings.engine_env.update(options.engine_env)
    campaign = Campaign(settings.release, options.max_concurrent_upgrades)
    upgrades = Upgrades(cluster, campaign, metrics, queue.add, options.namespace)

    def all_due() -> None:
        for key in health.services:
            queue.add(key)

    source = NAMESPACED if options.namespace else DISABLED if options.metrics_api == "Disabled" else UNKNOWN
    announcement = Announcement(cluster, namespace, source, all_due, options.metrics_api_ca_file)
    server = web.AppRunner(health.app(), access_log=None)
    await server.setup()
    await web.TCPSite(server, options.metrics_address, options.metrics_port).start()
    where = ", ".join(options.namespace) or "all namespaces"
    log.info("waiting for the Lease", extra={"identity": identity, "watches": where})

    stop = asyncio.create_task(ended.wait())
    status = 0
    try:
        acquired = asyncio.create_task(_lead(lease, cluster, options.pod_user))
        if await _first(acquired, stop) is not stop:
            assigned = acquired.result()  # raises what ended it: then this process does not lead
            health.leading = True
            reconciler = Reconciler(
                cluster,
                replace(settings, assigned_users=assigned),
                identity,
                feed,
                metrics,
                Rivals(namespace),
                upgrades,
                Turns(queue.add),
                lambda: announcement.source,
                kinds,
            )
            keep, watch = asyncio.create_task(lease.run(leader.keep())), asyncio.create_task(watchers.run())
            work = asyncio.create_task(Workers(reconciler, queue, health, options.namespace).run())
            beside = [announcement.run(), ScaleIn(cluster, options.namespace).run()]
            tend = asyncio.create_task(_all(*beside, *([] if feed is None else [feed.run()])))
            first = await _first(keep, watch, work, tend, stop)
            if first is keep and first.exception() is None:
                log.error("the Lease is another's: this process ends, so that nothing is written by two")
                logging.shutdown()
                os._exit(LOST)
            if first is not stop:
                status = LOST
                if first.exception() is not None:
                    log.error("ended by a mistake of the operator's", exc_info=first.exception())
            watchers.stop()
            for task in (work, tend, keep):
                task.cancel()
            await asyncio.gather(work, tend, keep, return_exceptions=True)
            await lease.run(leader.release())  # after the last write
        else:
            acquired.cancel()
            await asyncio.gather(acquired, return_exceptions=True)
    finally:
        await server.cleanup()
        await cluster.close()
        await lease.close()
    log.info("ended", extra={"status": status})
    return status


async def _lead(lease: LeaseThread, cluster: Cluster, pod_user: str) -> bool:
    """Returns once the Lease is held: whether the platform assigns the user of each pod, by the flag or by its API."""
    await lease.run(lease.leader.acquire())
    while pod_user == "Auto":
        try:
            return await cluster.serves(SECURITY_CONSTRAINTS)
        except OperatorError as error:
            log.warning("whether the platform assigns users could not be asked: %s", error)
            await asyncio.sleep(RETRY_S)
    return pod_user == "Assigned"


async def _all(*parts: Coroutine[Any, Any, None]) -> None:
    """All of them; ends when one fails."""
    async with asyncio.TaskGroup() as group:
        for part in parts:
            group.create_task(part)


async def _first(*tasks: asyncio.Task[object] | asyncio.Task[None] | asyncio.Task[bool]) -> asyncio.Task[object]:
    """The first of them to end."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    return next(iter(done))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m octavo_operator", description="Reconciles LLMServices.")
    scope = parser.add_mutually_exclusive_group(required=True)
    scope.add_argument(
        "--namespace", "-n", action="append", default=[], metavar="NAME", help="watch this one; may be repeated"
    )
    scope.add_argument("--all-namespaces", "-A", action="store_true", help="watch every namespace")
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        type=_image,
        metavar="[RUNTIME=]IMAGE",
        help=f"engine image of services that name none; may be repeated, once for each of {', '.join(IMAGE_KEYS)}",
    )
    parser.add_argument(
        "--engine-env",
        action="append",
        default=[],
        type=_variable,
        metavar="NAME=VALUE",
        help="environment variable of every engine and download whose service does not set it, such as HF_ENDPOINT, "
        "PIP_INDEX_URL or HTTPS_PROXY; may be repeated",
    )
    parser.add_argument(
        "--max-concurrent-upgrades",
        type=_natural,
        default=1,
        metavar="N",
        help="services whose replicas are replaced at a time because this operator renders them otherwise; 0: none",
    )
    parser.add_argument(
        "--pod-user",
        choices=("Auto", "Fixed", "Assigned"),
        default="Auto",
        help="user of engines' and downloads' pods: Fixed is 65532, Assigned leaves it to the platform; Auto leaves it to "
        "OpenShift alone",
    )
    parser.add_argument(
        "--leader-election-namespace", metavar="NAME", help="namespace of the Lease; by default the operator's own"
    )
    parser.add_argument("--metrics-port", type=int, default=8080, help="of /metrics, /healthz, /readyz and /livez")
    parser.add_argument("--metrics-address", default=None, help="address of the same; default: all, IPv4 and IPv6")
    parser.add_argument(
        "--metrics-api",
        choices=("Auto", "Disabled"),
        default="Auto",
        help="announce custom.metrics.k8s.io where no one else serves it; never done with --namespace",
    )
    parser.add_argument(
        "--metrics-api-ca-file",
        type=Path,
        metavar="FILE",
        help="PEM: who signs the metrics API's certificate; by default the operator makes and renews one",
    )
    add_flags(parser)
    return parser


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def _image(text: str) -> tuple[str, str]:
    """A key of `Settings.images` and its image."""
    key, separator, image = text.partition("=")
    if not separator:
        return "octavo", text
    if key not in IMAGE_KEYS:
        raise argparse.ArgumentTypeError(f"{key!r} is no runtime; there are {', '.join(IMAGE_KEYS)}")
    return key, image


def _variable(text: str) -> tuple[str, str]:
    """A key of `Settings.engine_env` and its value."""
    name, separator, value = text.partition("=")
    if not separator or not name or name.strip() != name:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=VALUE")
    return name, value


if __name__ == "__main__":
    from octavo.process import run

    sys.exit(run("octavo-operator", main))
