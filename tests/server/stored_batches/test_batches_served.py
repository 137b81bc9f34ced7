"""Files and batches over HTTP, by the openai package: upload, run, poll, download; refusals; what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import time

import openai
import pytest
from octavo_testing.served import Served, until
from openai import OpenAI

ENDED = {"completed", "failed", "expired", "cancelled"}


def row(name, url="/v1/completions", method="POST", **body):
    body = body or {"prompt": "hello", "max_tokens": 4}
    return {"custom_id": name, "method": method, "url": url, "body": body}


def lines(rows) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in rows)


def connected(server) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="unneeded", max_retries=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("batches") / "kept"


@pytest.fixture(scope="module")
def batches(fake_model, folder):
    """A server with batches, whose file bounds are small."""
    flags = ("--batch-dir", str(folder), "--batch-file-bytes", "100K", "--batch-dir-bytes", "300K")
    with Served(fake_model, "--served-model-name", "fake", *flags) as server:
        yield server


@pytest.fixture(scope="module")
def client(batches):
    with connected(batches) as client:
        yield client


def upload(client, rows, **fields):
    data = rows if isinstance(rows, bytes) else lines(rows)
    return client.files.create(file=("rows.jsonl", data), purpose="batch", **fields)


def begin(client, rows, endpoint="/v1/completions", **fields):
    file = upload(client, rows)
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **fields)


def ended(client, batch):
    until(lambda: client.batches.retrieve(batch.id).status in ENDED, 30)
    return client.batches.retrieve(batch.id)


def content(client, file_id):
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_the_flow_of_openais_client_is_served_unchanged(client):
    """Create a file and a batch, poll, and download what was answered and what was refused."""
    rows = [row(f"row {i}", prompt=f"hello {i}", max_tokens=3) for i in range(20)]
    rows[3]["body"]["temperature"] = -1
    rows[4]["body"]["model"] = "another"
    batch = begin(client, rows, metadata={"job": "nightly"})
    assert batch.status in {"validating", "in_progress"}
    done = ended(client, batch)
    assert (done.status, done.metadata, done.endpoint) == ("completed", {"job": "nightly"}, "/v1/completions")
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (20, 18, 2)
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at
    assert done.expires_at == done.created_at + 24 * 3600
    good, bad = content(client, done.output_file_id), content(client, done.error_file_id)
    assert sorted(line["custom_id"] for line in good + bad) == sorted(each["custom_id"] for each in rows)
    assert {line["response"]["status_code"] for line in good} == {200}
    assert {line["error"] for line in good} == {None}
    assert all(line["response"]["body"]["usage"]["completion_tokens"] == 3 for line in good)
    refused = {line["custom_id"]: line["response"] for line in bad}
    assert {name: each["status_code"] for name, each in refused.items()} == {"row 3": 400, "row 4": 404}
    assert "temperature" in refused["row 3"]["body"]["error"]["message"]
    file = client.files.retrieve(done.output_file_id)
    assert (file.purpose, file.filename, file.status) == ("batch_output", f"{batch.id}_output.jsonl", "processed")
    assert file.bytes == len(client.files.content(file.id).content)


def test_chats_and_responses_are_run(client):
    chat = row("chat", "/v1/chat/completions", messages=[{"role": "user", "content": "hi"}], max_tokens=2)
    done = ended(client, begin(client, [chat], "/v1/chat/completions"))
    assert content(client, done.output_file_id)[0]["response"]["body"]["choices"][0]["message"]["role"] == "assistant"
    assert done.error_file_id is None
    item = row("item", "/v1/responses", input="hi", max_output_tokens=16)
    done = ended(client, begin(client, [item], "/v1/responses"))
    assert content(client, done.output_file_id)[0]["response"]["body"]["object"] == "response"


def test_a_file_is_listed_read_and_deleted(client):
    data = lines([row("a")])
    file = upload(client, data, expires_after={"anchor": "created_at", "seconds": 7200})
    assert (file.bytes, file.filename, file.purpose) == (len(data), "rows.jsonl", "batch")
    assert file.expires_at == file.created_at + 7200
    assert file.id in {each.id for each in client.files.list(purpose="batch")}
    assert file.id not in {each.id for each in client.files.list(purpose="batch_output")}
    assert client.files.content(file.id).content == data
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError, match="there is no file"):
        client.files.retrieve(file.id)


def test_lists_come_in_pages_newest_first(client):
    """The client's own paging follows `after` through all of them, each once."""
    made = [begin(client, [row("a")]).id for _ in range(3)]
    listed = [batch.id for batch in client.batches.list(limit=2)]
    assert listed[:3] == made[::-1]
    assert len(set(listed)) == len(listed)
    page = client.files.list(limit=1, order="asc")
    assert (len(page.data), page.has_more) == (1, True)
    for batch in made:
        ended(client, client.batches.retrieve(batch))


@pytest.mark.parametrize(
    ("rows", "endpoint", "code", "line"),
    [
        (lines([row("a")]) + b"{\n", "/v1/completions", "invalid_json_line", 2),
        (lines([row("a"), row("a")]), "/v1/completions", "duplicate_custom_id", 2),
        (lines([row("a")]), "/v1/chat/completions", "mismatched_url", 1),
        (lines([row("a", stream=True, prompt="x")]), "/v1/completions", "invalid_row", 1),
        (lines([row("a", method="GET")]), "/v1/completions", "invalid_row", 1),
        (b"\n", "/v1/completions", "empty_file", None),
    ],
)
def test_a_file_that_cannot_be_run_fails_its_batch(client, rows, endpoint, code, line):
    """The errors name the line; no row is run."""
    done = ended(client, begin(client, rows, endpoint))
    assert (done.status, done.errors.data[0].code, done.errors.data[0].line) == ("failed", code, line)
    assert (done.output_file_id, done.error_file_id, done.in_progress_at) == (None, None, None)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/images"}, "endpoint"),
        ({"completion_window": "1 day"}, "completion_window"),
        ({"completion_window": "900h"}, "completion_window"),
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"input_file_id": "../../etc/passwd"}, "input_file_id"),
        ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after"),
    ],
)
def test_a_batch_that_cannot_be_is_refused_by_field(batches, client, fields, param):
    file = upload(client, [row("a")])
    body = {"input_file_id": file.id, "endpoint": "/v1/completions", "completion_window": "24h"} | fields
    status, answer, _ = batches.post("/v1/batches", body)
    assert status in {400, 404}
    assert answer["error"]["param"] == param


def form(parts, boundary="b") -> tuple[bytes, dict[str, str]]:
    data = b"".join(
        b'--%b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
        % (boundary.encode(), name.encode(), b'; filename="../../x"' if name == "file" else b"", value)
        for name, value in parts
    )
    return data + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


@pytest.mark.parametrize(
    ("parts", "status", "says"),
    [
        ([("purpose", b"batch")], 400, "no file"),
        ([("file", b"{}")], 400, "purpose"),
        ([("file", b"{}"), ("purpose", b"fine-tune")], 400, "send batch"),
        ([("file", b"{}"), ("file", b"{}"), ("purpose", b"batch")], 400, "two files"),
        ([("file", b"x" * 102_401), ("purpose", b"batch")], 413, "--batch-file-bytes"),
        ([("file", b"{}"), ("purpose", b"x" * 2000)], 400, "longer than"),
        ([("file", b"{}"), ("purpose", b"batch"), ("expires_after[seconds]", b"x")], 400, "expires_after"),
    ],
)
def test_a_form_that_cannot_be_kept_leaves_nothing(batches, folder, parts, status, says):
    """The refusal has the reason, and the bytes are deleted."""
    before = sorted(path.name for path in (folder / "files").iterdir())
    data, headers = form(parts)
    found, answer, _ = batches.post("/v1/files", data, headers=headers)
    assert (found, says in answer["error"]["message"]) == (status, True), answer
    assert sorted(path.name for path in (folder / "files").iterdir()) == before


@pytest.mark.parametrize("data", [b"", b"--b\r\n", b"--b\r\nbroken\r\n\r\n", b"--c--", b"\xff" * 100])
def test_a_malformed_form_is_refused(batches, data):
    status, answer, _ = batches.post("/v1/files", data, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert (status, answer["error"]["code"]) == (400, 400)
    assert batches.post("/v1/files", data, headers={"Content-Type": "multipart/form-data"})[0] == 400
    assert batches.post("/v1/files", {"purpose": "batch"})[0] == 415


def test_a_full_folder_refuses_files_until_some_are_deleted(client):
    kept = [upload(client, b"x" * 99_000)]
    room = 300 * 1024
    with pytest.raises(openai.BadRequestError, match="--batch-dir-bytes"):
        kept.extend(upload(client, b"x" * 99_000) for _ in range(room // 99_000 + 1))
    for file in kept:
        client.files.delete(file.id)
    client.files.delete(upload(client, b"x" * 99_000).id)


def test_names_of_files_stay_in_the_folder(batches, folder):
    """A client's name for its file, or an id that it makes up, leads nowhere."""
    data, headers = form([("file", lines([row("a")])), ("purpose", b"batch")])
    _, file, _ = batches.post("/v1/files", data, headers=headers)
    assert file["filename"] == "../../x"
    assert {path.name for path in folder.iterdir()} == {"lock", "files", "batches"}
    for name in ("..%2Flock", "%2e%2e/lock", "x", f"{file['id']}.json"):
        assert batches.get(f"/v1/files/{name}/content")[0] == 404
        assert batches.request("DELETE", f"/v1/files/{name}")[0] == 404
    assert (folder / "lock").exists()


def test_batches_are_counted(batches, client):
    before = batches.metric("octavo:batch_rows_total", outcome="answered")
    requests = batches.metric("vllm:request_success_total")
    tokens = batches.metric("vllm:generation_tokens_total")
    ended(client, begin(client, [row(f"{i}") for i in range(5)]))
    assert batches.metric("octavo:batch_rows_total", outcome="answered") == before + 5
    assert batches.metric("octavo:batches", status="completed") >= 1
    assert batches.metric("octavo:batch_dir_bytes") > 0
    assert batches.metric("vllm:generation_tokens_total") == tokens + 20
    assert batches.metric("vllm:request_success_total") == requests  # no latency of a client's


def test_without_a_folder_the_endpoints_say_how_to_get_them(served):
    for method, path in (
        ("GET", "/v1/files"),
        ("POST", "/v1/files"),
        ("GET", "/v1/batches/x"),
        ("POST", "/v1/batches"),
    ):
        status, answer, _ = served.request(method, path, None if method == "GET" else b"{}")
        assert (status, "--batch-dir" in answer["error"]["message"]) == (404, True)


def test_a_folder_serves_one_server_at_a_time(fake_model, batches, folder):
    with Served(fake_model, "--batch-dir", str(folder), wait=False) as second:
        assert second.wait() == 1
        assert "another server's" in second.output


def slow(fake_model, folder, *flags):
    return Served(fake_model, "--batch-dir", str(folder), "--max-num-seqs", "2", *flags, step_seconds=0.01)


def test_a_killed_server_goes_on_and_answers_each_row_once(fake_model, tmp_path):
    """A line that was not finished is cut off, and a file that was on its way is deleted."""
    rows = [row(f"row {i}", prompt="hello", max_tokens=5, ignore_eos=True) for i in range(40)]
    rows[5]["body"]["temperature"] = -1
    with slow(fake_model, tmp_path) as first, connected(first) as client:
        batch = begin(client, rows)
        until(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 5, 20)
        first.process.kill()
        first.wait()
    (written,) = (
        path
        for path in (tmp_path / "files").iterdir()
        if b'"id": "batch_req' in path.read_bytes()[:20] and b'"status_code": 200' in path.read_bytes()
    )
    assert 5 <= written.read_bytes().count(b"\n") < 39
    with written.open("ab") as file:
        file.write(b'{"id": "batch_req_x", "custom_id": "row')
    (tmp_path / "files" / ("file-" + "0" * 32)).write_bytes(b"half")
    with slow(fake_model, tmp_path) as second, connected(second) as client:
        done = ended(client, batch)
        assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 39, 1)
        lines = content(client, done.output_file_id) + content(client, done.error_file_id)
        assert sorted(line["custom_id"] for line in lines) == sorted(each["custom_id"] for each in rows)
        assert len(client.files.list().data) == 3


def test_the_engines_end_is_no_answer_to_a_row(fake_model, tmp_path):
    """The server ends with its engine, and the next one answers what was running."""
    rows = [row(f"row {i}", prompt="hello", max_tokens=20, ignore_eos=True) for i in range(20)]
    with slow(fake_model, tmp_path) as first, connected(first) as client:
        batch = begin(client, rows)
        until(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 2, 20)
        os.kill(first.core_pid, signal.SIGKILL)
        assert first.wait() == 1
    with slow(fake_model, tmp_path) as second, connected(second) as client:
        counts = ended(client, batch).request_counts
        assert (counts.completed, counts.failed) == (20, 0)


def test_a_file_that_was_taken_away_fails_its_batch_with_the_reason(fake_model, tmp_path):
    """What is answered so far is kept."""
    rows = [row(f"row {i}", prompt="hello", max_tokens=20, ignore_eos=True) for i in range(50)]
    with slow(fake_model, tmp_path) as first, connected(first) as client:
        batch = begin(client, rows)
        until(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 1, 20)
    (tmp_path / "files" / batch.input_file_id).unlink()
    with slow(fake_model, tmp_path) as second, connected(second) as client:
        done = ended(client, batch)
        assert (done.status, done.errors.data[0].code) == ("failed", "file_error")
        assert len(content(client, done.output_file_id)) == done.request_counts.completed >= 1


def test_a_batch_is_cancelled_where_it_is(fake_model, tmp_path):
    """What was answered stays, and its file can be deleted afterwards, but not before."""
    rows = [row(f"row {i}", prompt="hello", max_tokens=20, ignore_eos=True) for i in range(200)]
    with slow(fake_model, tmp_path) as server, connected(server) as client:
        batch = begin(client, rows)
        until(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 1, 20)
        with pytest.raises(openai.ConflictError, match=batch.id):
            client.files.delete(batch.input_file_id)
        assert client.batches.cancel(batch.id).status in {"cancelling", "cancelled"}
        done = ended(client, batch)
        assert (done.status, done.error_file_id) == ("cancelled", None)
        assert 1 <= len(content(client, done.output_file_id)) == done.request_counts.completed < 200
        with pytest.raises(openai.ConflictError, match="cancelled"):
            client.batches.cancel(batch.id)
        assert client.files.delete(batch.input_file_id).deleted
        server.wait_for_metric("octavo:batch_requests_running", 0)


def test_a_window_that_ends_leaves_an_error_for_each_row_that_is_not_answered(fake_model, tmp_path):
    """Its record is set back by a day while the server is away."""
    rows = [row(f"row {i}", prompt="hello", max_tokens=50, ignore_eos=True) for i in range(50)]
    with slow(fake_model, tmp_path) as server, connected(server) as client:
        batch = begin(client, rows)
        until(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 1, 20)
    (path,) = (tmp_path / "batches").iterdir()
    record = json.loads(path.read_bytes())
    record["batch"]["expires_at"] = int(time.time()) - 1
    path.write_text(json.dumps(record))
    with slow(fake_model, tmp_path) as server, connected(server) as client:
        done = ended(client, batch)
        good, bad = content(client, done.output_file_id), content(client, done.error_file_id)
    assert (done.status, len(good) + len(bad)) == ("expired", 50)
    assert done.request_counts.failed == len(bad)
    assert {(line["response"], line["error"]["code"]) for line in bad} == {(None, "batch_expired")}


def test_online_requests_run_beside_a_batch_that_fills_the_engine(fake_model, tmp_path):
    """No queue is there for a row, so the queue's bound of 1 refuses none; an online request is not refused either."""
    rows = [row(f"row {i}", prompt="hello", max_tokens=100, ignore_eos=True) for i in range(30)]
    with slow(fake_model, tmp_path, "--max-num-queued-reqs", "1") as server, connected(server) as client:
        batch = begin(client, rows)
        server.wait_for_metric("octavo:batch_requests_running", 2)
        for _ in range(3):
            answer = client.completions.create(model="", prompt="now", max_tokens=3)
            assert answer.usage.completion_tokens == 3
        assert client.batches.retrieve(batch.id).status == "in_progress"
        assert server.metric("vllm:num_requests_waiting") == 0
