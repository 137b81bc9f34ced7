"""A vLLM tutorial's HTTP examples work here: only host, port and model name differ.

Each script is run as a user would, in a process of its own, with the `openai` package, curl or aiohttp.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from octavo_testing.served import Served

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def server(smollm2):
    arguments = ["--served-model-name", MODEL, "--max-model-len", "2048", "--kv-cache-memory-bytes", "268435456"]
    arguments.append("--enable-prompt-tokens-details")
    with Served(smollm2.gguf, *arguments, real=True) as running:
        yield running


def run(server: Served, script: str, stdin: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", script.replace("BASE", server.url).replace("MODEL", MODEL)],
        input=stdin, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


CLIENT = 'from openai import OpenAI\nclient = OpenAI(base_url="BASE/v1", api_key="not-needed")\n'


def test_curl_completes_a_prompt(server):
    """A plain POST with model, prompt and max_tokens."""
    body = json.dumps({"model": MODEL, "prompt": "Containers are", "max_tokens": 24})
    command = ["curl", "-sf", f"{server.url}/v1/completions", "-H", "Content-Type: application/json", "-d", body]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"].strip()
    assert answer["usage"]["completion_tokens"] <= 24


def test_a_chat_answers_with_a_system_message_and_a_temperature(server):
    script = CLIENT + (
        'messages = [{"role": "system", "content": "You answer briefly."},'
        ' {"role": "user", "content": "What is a container image?"}]\n'
        'answer = client.chat.completions.create(model="MODEL", messages=messages, max_tokens=60, temperature=0.7)\n'
        "print(answer.choices[0].message.content)\n"
    )
    assert len(run(server, script).split()) > 3


def test_a_chat_streams(server):
    """Several chunks, and the first carries no text but the role."""
    script = CLIENT + (
        'stream = client.chat.completions.create(model="MODEL", stream=True, max_tokens=40,'
        ' messages=[{"role": "user", "content": "Name three colours."}])\n'
        "pieces = [c.choices[0].delta.content for c in stream if c.choices[0].delta.content is not None]\n"
        'print(len(pieces), "".join(pieces))\n'
    )
    count, _, text = run(server, script).partition(" ")
    assert int(count) > 3
    assert text.strip()


def test_a_loop_over_prompts_is_answered(server):
    script = CLIENT + (
        'for topic in ("orchestration", "images", "metrics"):\n'
        '    done = client.completions.create(model="MODEL", prompt=f"Summarize {topic}:", max_tokens=20)\n'
        "    print(repr(done.choices[0].text))\n"
    )
    assert len(run(server, script).splitlines()) == 3


def test_a_second_chat_reuses_the_first_ones_system_prompt(server):
    """The prefix cache is hit, and the metrics say how many tokens were found."""
    system = "You are an expert on clusters. " * 12
    script = CLIENT + (
        f"for question in ('What is a pod?', 'What is a service?'):\n"
        f"    messages = [dict(role='system', content={system!r}), dict(role='user', content=question)]\n"
        '    done = client.chat.completions.create(model="MODEL", messages=messages, max_tokens=8)\n'
        "    print(done.usage.prompt_tokens_details.cached_tokens)\n"
    )
    before = server.metric("vllm:prefix_cache_hits_total")
    first, second = map(int, run(server, script).split())
    assert first < 16
    assert second >= 64
    server.wait_for_metric("vllm:prefix_cache_hits_total", before + first + second)


def test_the_chatbot_keeps_its_context(server):
    """A loop over input() that appends each answer to the messages."""
    script = CLIENT + (
        'messages = [{"role": "system", "content": "You are helpful."}]\n'
        "while (line := input()) != 'quit':\n"
        "    messages.append(dict(role='user', content=line))\n"
        "    done = client.chat.completions.create(model='MODEL', messages=messages, max_tokens=24, temperature=0)\n"
        "    messages.append(dict(role='assistant', content=done.choices[0].message.content))\n"
        "    print(done.usage.prompt_tokens, done.usage.completion_tokens)\n"
    )
    first, second = (
        list(map(int, line.split())) for line in run(server, script, "Hello.\nAnd then?\nquit\n").splitlines()
    )
    assert second[0] > first[0] + first[1]


def test_metrics_have_the_names_of_the_dashboards(server):
    text = subprocess.run(["curl", "-sf", f"{server.url}/metrics"], capture_output=True, text=True, check=True).stdout
    for name in (
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:gpu_cache_usage_perc",
        "vllm:avg_generation_throughput_toks_per_s",
        "vllm:avg_prompt_throughput_toks_per_s",
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:time_per_output_token_seconds_bucket",
    ):
        assert f"\n{name}{{" in text, name


def test_twenty_concurrent_requests_are_batched(server):
    """The load test: all are answered, and in less time than one after the other."""
    script = (
        "import asyncio, time, aiohttp\n"
        "async def ask(session, i):\n"
        "    start = time.time()\n"
        '    body = dict(model="MODEL", prompt=f"Explain idea #{i}", max_tokens=40, ignore_eos=True)\n'
        '    async with session.post("BASE/v1/completions", json=body) as response:\n'
        "        assert response.status == 200, await response.text()\n"
        "        await response.json()\n"
        "    return time.time() - start\n"
        "async def main():\n"
        "    async with aiohttp.ClientSession() as session:\n"
        "        start = time.time()\n"
        "        times = await asyncio.gather(*(ask(session, i) for i in range(20)))\n"
        "        print(len(times), sum(times), time.time() - start)\n"
        "asyncio.run(main())\n"
    )
    count, summed, total = map(float, run(server, script).split())
    assert count == 20
    assert total < summed / 4
