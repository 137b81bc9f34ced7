"""Requests to an API server that is busy, behind something else, or no longer accepts us."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web
from octavo_testing.scripted_api_server import answering, listed

from octavo_operator.api.resources import NODES
from octavo_operator.cluster.client import Cluster
from octavo_operator.cluster.connection import Connection, connect
from octavo_operator.errors import ApiError, OperatorError, UnreachableError


def busy(seconds, status=429):
    return lambda: web.json_response({"reason": "TooManyRequests"}, status=status, headers={"Retry-After": seconds})


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_server_is_asked_again_when_it_says(status):
    async with answering(busy("1", status), listed()) as (cluster, asked):
        assert await cluster.list(NODES) == []
    assert asked[1] - asked[0] >= 1.0


async def test_a_pause_beyond_the_deadline_is_not_waited_for():
    async with answering(busy("60")) as (cluster, asked):
        with pytest.raises(ApiError) as error:
            await cluster.list(NODES)
    assert error.value.status == 429
    assert len(asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.Response(text="<html>the company's proxy</html>", content_type="text/html"),
        lambda: web.json_response({"hello": "world"}),
        lambda: web.json_response(["not", "an", "object"]),
        lambda: web.Response(body=b"\xff\xfe", content_type="application/json"),
    ],
    ids=["a page", "another object", "a list", "bytes"],
)
async def test_what_is_no_api_server_is_an_error_that_is_tried_again(answer):
    """Nothing outside the exception tree leaves the client: it would end the process."""
    async with answering(answer) as (cluster, _):
        with pytest.raises(OperatorError):
            await cluster.list(NODES)


async def test_a_token_file_that_can_not_be_read_is_an_error_that_is_tried_again(tmp_path):
    cluster = Cluster(Connection("http://127.0.0.1:9", None, token_file=tmp_path / "missing"))
    try:
        with pytest.raises(UnreachableError, match="No such file"):
            await cluster.list(NODES)
    finally:
        await cluster.close()


async def test_times_in_objects_are_compared_with_the_servers_clock():
    """A node whose clock is an hour ahead would otherwise end an old replica at once."""
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    async with answering(listed(Date=date), listed()) as (cluster, _):
        await cluster.list(NODES)
        ahead = cluster.now() - datetime.now(UTC)
        assert timedelta(minutes=59) < ahead < timedelta(minutes=61)
        await cluster.list(NODES)
        assert abs(cluster.now() - datetime.now(UTC)) < timedelta(seconds=3)


async def test_a_token_of_a_plugin_is_renewed_when_it_is_refused(control_plane, tmp_path, monkeypatch):
    """A kubeconfig of a cloud: its tokens last for an hour or less."""
    token = tmp_path / "token.json"

    def give(value):
        kind = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
        token.write_text(json.dumps({**kind, "status": {"token": value}}))

    program = f"print(open({str(token)!r}).read())"
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": ["-c", program]}
    config = json.loads(control_plane.kubeconfig().read_text())
    config["users"][0]["user"] = {"exec": {**plugin, "interactiveMode": "Never"}}
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    give("of-an-hour-ago")
    cluster = Cluster(connect())
    try:
        with pytest.raises(ApiError) as error:
            await cluster.list(NODES)
        assert error.value.status == 401
        cluster._credentials._renewed -= 60  # the plugin is asked again after some seconds at the earliest
        give("token-of-admin")
        assert await cluster.list(NODES) == []
    finally:
        await cluster.close()
