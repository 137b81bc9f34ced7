"""`octavo up` of a manifest whose engine serves HTTPS: probes, queue scrapes and the front do too."""

from __future__ import annotations

import json
import ssl
import time

import pytest
from octavo_testing.certificates import Authority
from up_runs import manifest

from octavo_operator.errors import LocalError
from octavo_operator.local.front_tls import FrontTls
from octavo_operator.planner.plan import Tls

pytestmark = pytest.mark.timeout(60)


def write(folder, issued):
    (folder / "tls.crt").write_text(issued.certificate)
    (folder / "tls.key").write_text(issued.key)
    return Tls(str(folder / "tls.crt"), str(folder / "tls.key"))


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_the_front_and_its_replicas_speak_https(up, tmp_path, replicas):
    """The front shows the engine's certificate, and a changed one from the next connection on."""
    authority = Authority("an authority")
    files = write(tmp_path, authority.issue("svc", ["127.0.0.1"]))
    args = json.dumps(["--ssl-certfile", files.certificate, f"--ssl-keyfile={files.key}"])
    text = manifest(f"replicas: {replicas}").replace("maxModelLen: 128", f"maxModelLen: 128, args: {args}")
    run = up(text)
    run.wait_for("svc answers at https://127.0.0.1:")
    trusted = ssl.create_default_context(cadata=authority.certificate)
    assert b'"pid"' in run.ask("/about", tls=trusted)
    assert b"num_requests_running" in run.ask("/metrics", tls=trusted)
    if replicas > 1:
        other = Authority("another")
        write(tmp_path, other.issue("svc", ["127.0.0.1"]))
        deadline = time.monotonic() + 10
        while not answers(run, ssl.create_default_context(cadata=other.certificate)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert run.end()[0] == 0


def answers(run, trusted):
    try:
        return bool(run.ask("/health", tls=trusted) is not None)
    except OSError:  # not trusted yet
        return False


def test_files_that_are_not_on_this_machine_end_it_with_the_remedy(tmp_path):
    """A pod has them from a Secret; a wrong pair is named alike."""
    with pytest.raises(LocalError, match=r"HTTPS with /etc/tls/tls.crt: No such file or directory; name files of this"):
        FrontTls(Tls("/etc/tls/tls.crt", None))
    files = write(tmp_path, Authority("an authority").issue("svc"))
    (tmp_path / "tls.key").write_text(Authority("another").issue("svc").key)
    with pytest.raises(LocalError, match=r"KEY_VALUES_MISMATCH; name files of this machine"):
        FrontTls(files)
