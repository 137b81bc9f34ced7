"""`octavo bench` against a server that answers by a script."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from octavo_engine.cli import bench


def run(server, capsys, *args: str) -> tuple[int, str, str]:
    code = bench.main(["--base-url", server.url, *args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_json(server, capsys, *args: str) -> tuple[int, dict]:
    code, out, _ = run(server, capsys, "--json", "-", *args)
    return code, json.loads(out)


def test_a_run_prints_counts_throughput_and_latencies(server, capsys):
    """The table has a row for each metric, and all went well: exit 0."""
    code, out, err = run(server, capsys, "--num-prompts", "5", "--concurrency", "2", "--output-len", "4")
    assert code == 0
    assert "5 ok, 0 failed" in out
    for row in ("duration", "requests/s", "output tokens/s", "total tokens/s", "time to first token",
                "time per output token", "inter-token latency", "end to end"):  # fmt: skip
        assert row in out
    assert err == ""


def test_tokens_are_counted_by_the_servers_usage(server, capsys):
    """Two tokens in a chunk count as two."""
    server.chunk_tokens = 2
    code, metrics = run_json(server, capsys, "--num-prompts", "3", "--output-len", "8", "--input-len", "10")
    assert code == 0
    assert metrics["output_tokens"] == 24
    assert metrics["prompt_tokens"] == 30
    assert not metrics["counted_chunks"]


def test_without_usage_chunks_are_counted_and_the_table_says_so(server, capsys):
    """A server that sends no usage still gives metrics, with a note."""
    server.sends_usage = False
    code, out, _ = run(server, capsys, "--num-prompts", "2", "--output-len", "4")
    assert code == 0
    assert "chunks with text are counted" in out


def test_prompts_are_token_ids_of_the_exact_length_and_all_different(server, capsys):
    """Own tokens differ from one prompt to the next, the shared prefix does not."""
    run_json(server, capsys, "--num-prompts", "4", "--input-len", "16", "--shared-prefix-len", "8", "--warmup", "0")
    prompts = [body["prompt"] for body in server.bodies[1:]]  # the first one asks if token ids are taken
    assert [len(prompt) for prompt in prompts] == [24] * 4
    assert len({tuple(prompt[:8]) for prompt in prompts}) == 1
    assert len({tuple(prompt[8:]) for prompt in prompts}) == 4


def test_a_server_that_takes_no_token_ids_gets_words(server, capsys):
    """The refusal of the first, short request decides it."""
    server.takes_token_ids = False
    code, metrics = run_json(server, capsys, "--num-prompts", "2", "--input-len", "12", "--warmup", "0")
    assert code == 0
    assert metrics["settings"]["prompts"] == "words"
    assert metrics["prompt_tokens"] == 24


def test_requests_are_made_as_the_flags_say(server, capsys):
    """Temperature, length, ignore_eos and the endpoint reach the server."""
    run_json(
        server, capsys, "--num-prompts", "1", "--warmup", "0", "--endpoint", "chat", "--temperature", "0.5",
        "--output-len", "3", "--no-ignore-eos", "--model", "other",
    )  # fmt: skip
    (body,) = server.bodies
    assert body["model"] == "other"
    assert body["temperature"] == 0.5
    assert body["max_tokens"] == 3
    assert "ignore_eos" not in body
    assert body["stream_options"] == {"include_usage": True}
    assert len(body["messages"][0]["content"].split()) == 128


def test_no_more_than_concurrency_run_at_once(server, capsys):
    """Exactly as many as --max-concurrency run."""
    server.delay = 0.01
    run_json(server, capsys, "--num-prompts", "9", "--concurrency", "3", "--output-len", "3")
    assert server.most_running == 3


def test_warmup_requests_are_not_counted_and_have_other_prompts(server, capsys):
    """Common prompts would be found in a prefix cache, which would flatter the metrics."""
    _, metrics = run_json(server, capsys, "--num-prompts", "2", "--warmup", "3", "--prompts", "tokens")
    assert metrics["succeeded"] == 2
    assert len(server.bodies) == 5
    assert len({tuple(body["prompt"]) for body in server.bodies}) == 5


def test_a_seed_repeats_the_prompts_and_none_makes_fresh_ones(server, capsys):
    """A second run without one does not find the first one's prefixes."""
    args = ("--num-prompts", "2", "--warmup", "0", "--prompts", "tokens", "--output-len", "1")
    for seed in (("--seed", "7"), ("--seed", "7"), (), ()):
        run_json(server, capsys, *args, *seed)
    prompts = [tuple(body["prompt"]) for body in server.bodies]
    assert prompts[:2] == prompts[2:4]
    assert len(set(prompts)) == 6


def test_a_rate_spreads_the_requests(server, capsys):
    """Twenty requests at 100 a second take about a fifth of a second, however fast the server is."""
    _, metrics = run_json(
        server, capsys, "--num-prompts", "20", "--rate", "100", "--output-len", "1", "--seed", "1", "--warmup", "0"
    )
    assert 0.05 < metrics["duration"] < 2


def test_failed_requests_are_counted_with_their_reasons_and_exit_1(server, capsys):
    """The others' metrics stand."""
    server.fail_every = 3
    code, out, _ = run(
        server, capsys, "--num-prompts", "6", "--warmup", "0", "--prompts", "tokens", "--output-len", "2"
    )
    assert code == 1
    assert "4 ok, 2 failed" in out
    assert "2 failed: the server answers 500: failing on purpose" in out


@pytest.mark.parametrize(
    ("how", "reason"),
    [("break_after", "the connection to"), ("error_after", "the server breaks off: breaking on purpose")],
)
def test_an_answer_that_breaks_off_is_a_failure(server, capsys, how, reason):
    """The tokens of such an answer do not count."""
    setattr(server, how, 2)
    code, metrics = run_json(
        server, capsys, "--num-prompts", "1", "--warmup", "0", "--prompts", "tokens", "--output-len", "5"
    )
    assert code == 1
    assert metrics["output_tokens"] == 0
    (failure,) = metrics["failures"]
    assert failure.startswith(reason)


def test_json_goes_to_a_file_beside_the_table(server, capsys, tmp_path):
    """Metrics that were not measured are null there: one token has no time per further token."""
    path = tmp_path / "metrics.json"
    code, out, _ = run(server, capsys, "--num-prompts", "1", "--output-len", "1", "--json", str(path))
    assert code == 0
    assert "1 ok, 0 failed" in out
    metrics = json.loads(path.read_text())
    assert metrics["tpot_ms"]["mean"] is None
    assert metrics["ttft_ms"]["mean"] > 0


def test_a_file_that_cannot_be_written_is_one_line(server, capsys, tmp_path):
    """Exit 1, no traceback."""
    code, _, err = run(server, capsys, "--num-prompts", "1", "--output-len", "1", "--json", str(tmp_path / "no" / "x"))
    assert code == 1
    assert err.count("\n") == 1
    assert "can't be written" in err


def test_no_server_is_one_line_that_says_what_to_do(capsys):
    """Exit 1."""
    code = bench.main(["--base-url", "http://127.0.0.1:9", "--num-prompts", "1"])
    captured = capsys.readouterr()
    assert code == 1
    assert captured.err.startswith("octavo bench: no server answers at http://127.0.0.1:9 (")
    assert "octavo serve MODEL" in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("args", [("--num-prompts", "0"), ("--rate", "-1"), ("--rate", "nan"), ("--concurrency", "x")])
def test_impossible_flags_are_refused(args, capsys):
    """argparse's exit 2, and the flag is named."""
    with pytest.raises(SystemExit) as ended:
        bench.main(list(args))
    assert ended.value.code == 2
    assert args[0] in capsys.readouterr().err


def test_a_narrow_terminal_breaks_lines_and_cuts_no_figure(server, capsys, monkeypatch):
    """The table is as in a wide one."""
    monkeypatch.setenv("COLUMNS", "20")
    code, out, _ = run(server, capsys, "--num-prompts", "1", "--output-len", "2")
    assert code == 0
    assert "…" not in out
    assert "inter-token latency" in out


def spawned(server, **options) -> subprocess.CompletedProcess[bytes]:
    options = {"stdout": subprocess.PIPE} | options
    return subprocess.run(
        [sys.executable, "-m", "octavo_engine.cli.bench", "--base-url", server.url, "--num-prompts", "1"],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "ascii"},
        timeout=60,
        check=False,
        **options,
    )


def test_the_table_is_spelled_out_in_ascii(server):
    """The arrow becomes ->."""
    done = spawned(server)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"128 -> 128 tokens" in done.stdout


def test_a_reader_that_has_gone_is_not_taken_for_a_file_that_cannot_be_written(server):
    """The end is quiet, as SIGPIPE's would be."""
    reading, writing = os.pipe()
    os.close(reading)
    done = spawned(server, stdout=writing)
    os.close(writing)
    assert done.returncode in {1, 141}  # 1 is rich's own
    assert done.stderr == b""
