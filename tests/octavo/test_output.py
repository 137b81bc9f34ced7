"""The command's output reaches any terminal, and a reader that goes away or a full disk is no crash."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SERVICE = """apiVersion: octavo.dev/v1alpha1
kind: LLMService
metadata: {name: one, annotations: {note: "größer → 🎈"}}
spec:
  model: {uri: hf://acme/model}
  engine: {env: [{name: NOTE, value: "größer → 🎈"}]}
  accelerator: {vendor: cpu}
"""
OCTAVO = [sys.executable, "-m", "octavo"]
# What a locale is to Python: the encoding alone, and a C locale that it may not turn into UTF-8.
LOCALES = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]
VERBS = ["plan", "render", "up", "serve", "chat", "bench"]


def octavo(*arguments: str, env: dict[str, str] | None = None, **options) -> subprocess.CompletedProcess[bytes]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run([*OCTAVO, *arguments], env={**os.environ, **(env or {})}, timeout=60, check=False, **options)


@pytest.fixture
def service(tmp_path: Path) -> str:
    path = tmp_path / "service.yaml"
    path.write_text(SERVICE, encoding="utf-8")
    return str(path)


@pytest.mark.sample(env=LOCALES[1:2])
@pytest.mark.parametrize("env", LOCALES, ids=["ascii", "latin-1", "C"])
def test_a_plan_is_spelled_out_where_the_terminal_lacks_its_signs(service, env):
    """The bar's blocks become #, and nothing is a traceback."""
    done = octavo("plan", "-f", service, "--offline", env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    done.stdout.decode("latin-1" if "latin-1" in env.values() else "ascii")
    assert b"acme/model" in done.stdout


@pytest.mark.sample(env=LOCALES[:1])
@pytest.mark.parametrize("env", LOCALES, ids=["ascii", "latin-1", "C"])
@pytest.mark.parametrize("verb", ["plan", "render"])
@pytest.mark.parametrize("form", ["json", "yaml"])
def test_what_machines_read_means_the_same_in_any_encoding(service, env, verb, form):
    """A reader of JSON or YAML gets every character back."""
    read = {"json": json.loads, "yaml": lambda text: list(yaml.safe_load_all(text))}[form]
    usual = octavo(verb, "-f", service, "--offline", "-o", form)
    assert "größer → 🎈" in usual.stdout.decode()
    narrow = octavo(verb, "-f", service, "--offline", "-o", form, env=env)
    assert narrow.returncode == 0
    assert read(narrow.stdout.decode("ascii")) == read(usual.stdout.decode())


@pytest.mark.parametrize("verb", VERBS)
def test_every_verbs_help_prints_in_ascii(verb):
    """--help goes through the same stream."""
    done = octavo(verb, "--help", env=LOCALES[0])
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"usage: octavo")


@pytest.mark.parametrize(
    "module", ["octavo_engine", "octavo_engine.fetch", "octavo_operator", "octavo_operator.metrics_api"]
)
def test_what_containers_run_prints_in_ascii_too(module):
    """The images' entry points go the same way as the verbs."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        capture_output=True,
        env={**os.environ, **LOCALES[0]},
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "codes"),
    [
        (["plan", "-f", "{}", "--offline"], {141}),
        (["render", "-f", "{}", "--offline"], {141}),
        (["serve", "--help"], {0, 141}),  # argparse itself passes over what it can't print
        ([], {141}),
    ],
)
def test_a_reader_that_has_gone_ends_the_verb_quietly(service, arguments, codes):
    """The exit code is SIGPIPE's, 141, without a word."""
    reading, writing = os.pipe()
    os.close(reading)
    done = octavo(*(each.format(service) for each in arguments), stdout=writing)
    os.close(writing)
    assert done.returncode in codes
    assert done.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_disk_is_one_line(service):
    """With the reason."""
    with Path("/dev/full").open("wb") as full:
        done = octavo("plan", "-f", service, "--offline", stdout=full)
    assert done.returncode == 1
    assert done.stderr.decode() == "octavo plan: standard output can't be written: No space left on device\n"


@pytest.mark.sample(closed=[(1,), (0, 1, 2)])
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("arguments", [["plan", "-f", "{}", "--offline"], ["--version"]], ids=["plan", "version"])
def test_streams_that_were_closed_do_no_harm(service, closed, arguments):
    """The shell closes them with `>&-`: what can't be printed is not, the rest goes on."""

    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    done = octavo(*(each.format(service) for each in arguments), preexec_fn=close)
    assert (done.returncode, done.stderr) == (0, b"")
    assert bool(done.stdout) == (1 not in closed)


def test_no_file_or_socket_gets_a_standard_streams_descriptor():
    """A stream that was closed is /dev/null, so that nothing prints into a connection."""
    program = "import os; from octavo.process import run; run('x', lambda: os.write(9, os.readlink('/proc/self/fd/1').encode()))"
    reading, writing = os.pipe()

    def prepare() -> None:
        os.dup2(writing, 9)
        os.close(1)

    subprocess.run([sys.executable, "-c", program], preexec_fn=prepare, pass_fds=(9,), check=True, timeout=60)
    os.close(writing)
    assert os.read(reading, 100) == b"/dev/null"
    os.close(reading)


def test_the_soft_limit_of_descriptors_is_raised_to_the_hard_one():
    """1024 are too few for a thousand streams, and nothing here calls select(); some runtimes' hard limit is a billion."""
    program = "import resource; from octavo.process import run; run('x', lambda: print(*resource.getrlimit(resource.RLIMIT_NOFILE)))"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))

    done = subprocess.run(
        [sys.executable, "-c", program], preexec_fn=lower, capture_output=True, check=True, timeout=60
    )
    raised = 1 << 20 if hard == resource.RLIM_INFINITY else min(hard, 1 << 20)
    assert done.stdout.split() == [str(raised).encode(), str(hard).encode()]


def test_text_that_comes_in_is_utf8_in_an_ascii_locale():
    """A manifest or a prompt that is piped in is read as it was written."""
    program = "import sys; from octavo.process import run; run('x', lambda: print(ascii(sys.stdin.read())))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="größer".encode() + b"\xff",
        capture_output=True,
        env={**os.environ, **LOCALES[0]},
        check=True,
        timeout=60,
    )
    assert done.stdout == b"'gr\\xf6\\xdfer\\ufffd'\n"
