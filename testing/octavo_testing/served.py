"""`octavo serve` as a process of its own, over an engine whose executor is `FakeExecutor`, or over a real one.

With the fake, the API server, the core process, the socket, the scheduler and the KV blocks are still the real ones.
A token is one printable character, so that texts are easy to reason about.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

KIT = Path(__file__).parents[1]
PRINTABLE = [chr(code) for code in range(33, 127)] + ["Ġ"]  # a space, as byte-level vocabularies spell it
TURN_END = len(PRINTABLE) + 1 + (256 - len(PRINTABLE))
TEMPLATE = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}{% if add_generation_prompt %}>{% endif %}"

TINY_CONFIG = {  # of a decoder that is made in no time; its weights are `--load-format dummy`
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "torch_dtype": "float32",
}


def write_model(folder: Path) -> Path:
    """A folder with what the server itself reads: config, tokenizer, chat template. It has no weights."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pieces = [*PRINTABLE, *sorted(set(alphabet) - set(PRINTABLE))]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "fake", "eos_token_id": TURN_END}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": TEMPLATE, "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False})
    )
    return folder


class Served:
    """A running server. `step_seconds` makes each step of the engine take that long."""

    def __init__(
        self,
        model: Path,
        *arguments: str,
        step_seconds: float = 0.0,
        num_blocks: int = 600,
        wait: bool = True,
        temporary: Path | None = None,
        env: dict[str, str] | None = None,
        real: bool = False,
        script: Path | None = None,
    ) -> None:
        """`real`: the model has weights, and its own engine runs it; `script` starts another."""
        paths = [str(KIT), *(str(Path(path).resolve()) for path in sys.path if path)]
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")},
            "PYTHONPATH": os.pathsep.join(paths),
            "FAKE_STEP_SECONDS": str(step_seconds),
            "FAKE_NUM_BLOCKS": str(num_blocks),
            **({"TMPDIR": str(temporary)} if temporary else {}),
            **(env or {}),
        }
        self.lines: list[str] = []
        self.url = ""
        self._ready = threading.Event()
        argv = [str(model), "--host", "127.0.0.1", "--port", "0"]
        program = ["-m", "octavo_engine"]
        if script is not None:
            program = [str(script)]
        elif not real:
            argv += ["--load-format", "dummy", "--max-model-len", "256"]
            program = ["-m", "octavo_testing.serve_fake"]
        self.process = subprocess.Popen(
            [sys.executable, "-P", *program, *argv, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.env,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if wait and not self.wait_until_served():
            self.close()
            raise AssertionError("the server did not start:\n" + self.output)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if " is served at " in line:
                self.url = line.split(" is served at ")[1].split("/v1")[0]
                self._ready.set()
        self._ready.set()

    def wait_until_served(self, seconds: float = 60.0) -> bool:
        self._ready.wait(seconds)
        return bool(self.url)

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def core_pid(self) -> int:
        """The engine core's process id."""
        (pid,) = [pid for pid in self.family() if "core_process" in command_of(pid)]
        return pid

    def family(self) -> list[int]:
        """The server's child processes that live."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            return [int(pid) for pid in path.read_text().split()]
        except OSError:
            return []

    def wait(self, seconds: float = 20.0) -> int:
        """The exit code, once the process has ended and all that it said has been read."""
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        """End it, however it is."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 30.0
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body (parsed where it is JSON) and headers (names in lower case) of one request."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return _answer(response)
        except urllib.error.HTTPError as error:
            with error:
                return _answer(error)

    def get(self, path: str, **kwargs: Any) -> tuple[int, Any, dict[str, str]]:
        return self.request("GET", path, **kwargs)

    def post(self, path: str, body: Any, **kwargs: Any) -> tuple[int, Any, dict[str, str]]:
        return self.request("POST", path, body, **kwargs)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        from prometheus_client.parser import text_string_to_metric_families

        _, text, _ = self.get("/metrics")
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples if s.name == name]
        assert samples, f"no metric {name}"
        return sum(s.value for s in samples if labels.items() <= s.labels.items())

    def wait_for_metric(self, name: str, value: float, seconds: float = 10.0) -> None:
        """Wait until a metric has a value; the engine reports its gauges once a second while idle."""
        until(lambda: self.metric(name) == value, seconds, f"{name} is {self.metric(name)}, not {value}")


def until(condition: Any, seconds: float, otherwise: str = "it did not happen in time") -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.02)


def state_of(pid: int) -> str:
    """A process's state as the kernel has it: R runs, S sleeps, Z is a zombie; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """True if a process lives; a zombie does not."""
    return state_of(pid) not in {"", "Z"}


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _answer(response: Any) -> tuple[int, Any, dict[str, str]]:
    data = response.read()
    headers = {name.lower(): value for name, value in response.headers.items()}
    kind = headers.get("content-type", "")
    return response.status, json.loads(data) if "json" in kind and data else data.decode(), headers
