"""vLLM's command line parses with vLLM's values, and no flag of it is swallowed."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from octavo_engine.api_keys import VARIABLES as API_KEY_VARIABLES
from octavo_engine.cli.arguments import build_parser, parse, parse_with_notes
from octavo_engine.cli.serve import main
from octavo_engine.cli.unserved_flags import UNSERVED_FLAGS
from octavo_engine.errors import ConfigError


def config_of(*argv):
    config, notes = parse_with_notes(["model", *argv])
    assert notes == []
    return config


def refusal(*argv):
    with pytest.raises(ConfigError) as caught:
        parse_with_notes(argv)
    return str(caught.value)


def test_the_classic_table_parses_with_vllms_values():
    """The eight flags that every guide to vLLM shows."""
    config, notes = parse_with_notes(
        [
            "--model",
            "meta/llama",
            "--tensor-parallel-size",
            "1",
            "--gpu-memory-utilization",
            "0.90",
            "--max-num-batched-tokens",
            "8192",
            "--max-num-seqs",
            "256",
            "--max-model-len",
            "4096",
            "--block-size",
            "32",
            "--swap-space",
            "4",
            "--enforce-eager",
        ]
    )
    assert config.model.model == "meta/llama"
    assert config.model.served_model_names == ("meta/llama",)
    assert config.model.max_model_len == 4096
    assert (config.cache.gpu_memory_utilization, config.cache.block_size, config.cache.swap_space_gib) == (0.9, 32, 4)
    assert (config.scheduler.max_num_batched_tokens, config.scheduler.max_num_seqs) == (8192, 256)
    assert config.executor.enforce_eager
    assert notes == []


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--max-model-len", "4k"], 4000),
        (["--max-model-len", "4K"], 4096),
        (["--max-model-len=1.5k"], 1500),
        (["--max_model_len", "2K"], 2048),
        (["--max_model_len=2M"], 2 * 2**20),
        (["--max-model-len", "-1"], None),
        (["--max-model-len", "auto"], None),
        ([], None),
    ],
)
def test_numbers_are_written_as_vllm_writes_them(argv, value):
    """1k is 1000 and 1K is 1024; underscores are dashes; -1 and auto leave it to the memory."""
    assert config_of(*argv).model.max_model_len == value


@pytest.mark.parametrize("text", ["1.5K", "many", "0", "-2", "4kk", ""])
def test_a_number_that_is_none_is_named_with_its_flag(text):
    """The exit code is 2."""
    assert "--max-model-len" in refusal("model", "--max-model-len", text)


def test_short_forms_and_negations():
    """vLLM has the same ones."""
    config = config_of(
        "-tp", "1", "-pp", "1", "-q", "gguf", "-dp", "1", "--no-enable-prefix-caching", "--no-enforce-eager"
    )
    assert not config.cache.enable_prefix_caching
    assert config_of("--enable-prefix-caching").cache.enable_prefix_caching
    assert not config_of("--no-enable-chunked-prefill").scheduler.enable_chunked_prefill


def test_several_names_and_keys_and_origins():
    """Lists are words, or JSON where vLLM takes JSON."""
    config = config_of("--served-model-name", "a", "b", "--api-key", "x", "y", "--allowed-origins", '["*"]')
    assert config.model.served_model_names == ("a", "b")
    assert config.server.api_keys == ("x", "y")
    assert config.server.allowed_origins == ("*",)


@pytest.mark.parametrize("space", ["\n", "\r\n", " ", "\t"])
def test_white_space_around_a_key_is_not_part_of_it(monkeypatch, space):
    """A file or a Secret ends in a newline, which no client can send."""
    for name in API_KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert config_of("--api-key", f"{space}a b{space}", f"c{space}").server.api_keys == ("a b", "c")
    monkeypatch.setenv("VLLM_API_KEY", f"theirs{space}")
    assert config_of().server.api_keys == ("theirs",)


@pytest.mark.parametrize("key", ["", " ", "\n", "two\nlines", "a\x00b", "a\tb"])
def test_a_key_that_no_client_can_send_is_refused(monkeypatch, key):
    """An empty one would open the server to anyone who sends `Bearer`; an empty variable is as good as none."""
    assert "--api-key" in refusal("model", "--api-key", "good", key)
    for name in API_KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if "\x00" in key:
        return
    monkeypatch.setenv("OCTAVO_API_KEY", key)
    if key:
        assert "OCTAVO_API_KEY" in refusal("model")
        assert key.strip() == "" or key not in refusal("model")
    else:
        assert config_of().server.api_keys == ()


def test_the_environment_gives_the_key_where_no_flag_does(monkeypatch):
    """Ours comes before vLLM's; a flag before both."""
    monkeypatch.delenv("OCTAVO_API_KEY", raising=False)
    monkeypatch.setenv("VLLM_API_KEY", "theirs")
    assert config_of().server.api_keys == ("theirs",)
    monkeypatch.setenv("OCTAVO_API_KEY", "ours")
    assert config_of().server.api_keys == ("ours",)
    assert config_of("--api-key", "flag").server.api_keys == ("flag",)


@pytest.mark.parametrize("text", [None, "", " \n\n", "a\tb\n", b"\xff\n"])
def test_a_file_of_keys_that_would_guard_nothing_is_refused(tmp_path, text):
    file = tmp_path / "keys"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert f"--api-key-file {file}" in refusal("model", "--api-key-file", str(file))


def test_a_chat_template_is_a_path_or_a_text(tmp_path):
    """A brace or a line break makes it a text."""
    path = tmp_path / "t.jinja"
    path.write_text("{{ messages }}")
    assert config_of("--chat-template", str(path)).model.chat_template == "{{ messages }}"
    assert config_of("--chat-template", "{{ x }}").model.chat_template == "{{ x }}"
    assert "No such file" in refusal("model", "--chat-template", str(tmp_path / "none"))


def test_a_chat_template_can_be_a_built_in_ones_name(tmp_path, monkeypatch):
    """Any other word is a path, and the refusal names the built-in ones too; `./` leads to a file of such a name."""
    model = config_of("--chat-template", "phi-2").model
    assert (model.chat_template_name, model.chat_template) == ("phi-2", None)
    refused = refusal("model", "--chat-template", "phi-3")
    assert refused.startswith("--chat-template phi-3: No such file")
    assert "alpaca, chatml, falcon, phi-2, vicuna" in refused
    monkeypatch.chdir(tmp_path)
    Path("phi-2").write_text("{{ messages }}")
    model = config_of("--chat-template", "./phi-2").model
    assert (model.chat_template_name, model.chat_template) == (None, "{{ messages }}")


def test_a_config_file_gives_flags_and_the_command_line_wins(tmp_path):
    """YAML of flags, with dashes or underscores."""
    path = tmp_path / "c.yaml"
    path.write_text(
        "model: m\nport: 9000\nmax_model_len: 2k\nenable-prefix-caching: false\nserved-model-name: [a, b]\nenable_lora: false\n"
    )
    config = parse(["--config", str(path), "--port", "9001"])
    assert (config.model.model, config.server.port, config.model.max_model_len) == ("m", 9001, 2000)
    assert not config.cache.enable_prefix_caching
    assert config.model.served_model_names == ("a", "b")
    path.write_text("port: 9000\nprot: 1\n")
    assert "there is no flag --prot; did you mean --port?" in refusal("m", f"--config={path}")
    path.write_text("[1")
    assert "is not YAML" in refusal("m", "--config", str(path))
    path.write_text("- 1")
    assert "must be a mapping" in refusal("m", "--config", str(path))
    assert "No such file" in refusal("m", "--config", str(tmp_path / "none"))


def test_remote_code_is_refused_with_the_reason():
    """The refusal has the state, the reason and the remedy."""
    assert "never run" in refusal("m", "--trust-remote-code")


def test_several_ranks_run_over_torch_alone():
    """Torch is chosen by itself; the native executor, asked for by name, says what it can't do."""
    assert parse(["m"]).executor.executor == "auto"
    config = parse(["m", "-tp", "4", "-pp", "2", "--distributed-executor-backend", "mp"])
    assert config.executor.executor == "torch"
    assert (config.parallel.world_size, config.parallel.ranks_here) == (8, range(8))
    assert "more replicas" in refusal("m", "--tensor-parallel-size", "4", "--executor", "native")
    assert "--enable-expert-parallel: --executor native" in refusal("m", "-ep", "--executor", "native")
    assert "--nnodes" in refusal("m", "-tp", "2", "--distributed-executor-backend", "ray")


def test_sums_between_ranks_can_be_left_to_the_backend():
    """vLLM's flag leaves them to it."""
    assert parse(["m", "-tp", "2"]).parallel.custom_all_reduce
    assert not parse(["m", "-tp", "2", "--disable-custom-all-reduce"]).parallel.custom_all_reduce


def test_nodes_share_the_ranks_evenly():
    """Sizes that do not divide are refused, naming both numbers."""
    words = ["m", "-tp", "4", "--nnodes", "2", "--node-rank", "1", "--master-addr", "10.0.0.1", "--master-port", "4000"]
    parallel = parse([*words, "--headless"]).parallel
    assert parallel.ranks_here == range(2, 4)
    assert (parallel.master_addr, parallel.master_port) == ("10.0.0.1", 4000)
    assert "--nnodes 3 does not divide the 4 ranks" in refusal("m", "-tp", "4", "-n", "3")
    assert "it is 0 to 1" in refusal("m", "-tp", "4", "-n", "2", "-r", "2")
    assert "--headless" in refusal("m", "--headless")


@pytest.mark.parametrize("name", sorted(UNSERVED_FLAGS))
def test_every_unserved_flag_of_vllms_is_named_in_a_refusal_or_a_note(name):
    """None is ignored; a value that asks for the present behaviour is accepted in silence."""
    flag = UNSERVED_FLAGS[name]
    spelled = f"--{name}" if len(name) > 2 else f"-{name}"
    used = [spelled] if flag.switch else [spelled, "some-value"]
    if not flag.refused:
        _, notes = parse_with_notes(["m", *used])
        assert notes == ([] if "true" in flag.same else [f"{spelled}: {flag.why}"])
    elif "true" not in flag.same:
        assert refusal("m", *used).startswith(f"{spelled}{'' if flag.switch else ' some-value'}: {flag.why}")
    for value in flag.same:
        argv = [spelled if value == "true" else f"--no-{name}"] if flag.switch else [f"{spelled}={value}"]
        assert parse_with_notes(["m", *argv])[1] == []


@pytest.mark.parametrize("value", ["", "None", "{}"])
def test_a_refused_flag_whose_value_is_nothing_is_as_if_it_were_left_out(value):
    """Charts and scripts write vLLM's defaults out; a switch has no such value."""
    for flag in ("--speculative-config", "--quantization", "--rope-scaling", "--kv-transfer-config"):
        assert parse_with_notes(["m", flag, value])[1] == []
    assert "leave it out" in refusal("m", "--quantization", "none")


@pytest.mark.parametrize("name", ["cpu-offload-gb", "kv-offloading-size", "kv-transfer-config"])
def test_a_refused_way_of_offloading_names_the_swap_space_instead(name):
    """Preempted sequences are swapped where there is such a space: no sentence says that they are always recomputed."""
    why = UNSERVED_FLAGS[name].why
    assert "--swap-space keeps preempted sequences in host memory" in why
    assert not [flag for flag, unserved in UNSERVED_FLAGS.items() if "recomputed" in unserved.why]


@pytest.mark.parametrize(
    ("value", "why"),
    [("much", "'much' is not a number"), ("-1", "-1 is not a number of 0 or more"), ("nan", "nan is not")],
)
def test_swap_space_is_refused_as_a_number(value, why):
    """Its unit is GiB: neither the sentence nor the name of its type speaks of seconds."""
    sentence = refusal("m", f"--swap-space={value}")
    assert sentence.startswith("argument --swap-space: ")
    assert why in sentence
    assert "second" not in sentence


def test_a_type_that_is_named_for_a_unit_is_that_of_flags_in_it():
    actions = build_parser()._actions
    assert {a.metavar for a in actions if "seconds" in getattr(a.type, "__name__", "")} <= {"SECONDS"}


def test_no_flag_is_both_served_and_unserved():
    """The two tables are disjoint."""
    served = {name for action in build_parser()._actions for name in action.option_strings}
    assert not served & {f"--{name}" for name in UNSERVED_FLAGS}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--compilation-config.mode", "0"], "--compilation-config.mode: "),
        (["-O3"], "-O3: "),
        (["-cc", "{}"], "-cc: "),
        (["--disable-log-requests"], "--disable-log-requests: "),
        (["--num_scheduler_steps=8"], "--num-scheduler-steps: "),
    ],
)
def test_flags_that_vllm_has_removed_or_that_change_nothing_get_a_line(argv, message, capsys):
    """The start goes on."""
    parse(["m", *argv])
    assert capsys.readouterr().err.startswith(f"octavo serve: {message}")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["m", "--max-model-length", "4"], "there is no flag --max-model-length; did you mean --max-model-len?"),
        (["m", "--max-num", "4"], "there is no flag --max-num; did you mean"),
        (["m", "--xyzzy"], "there is no flag --xyzzy; octavo serve --help lists the flags"),
        (["m", "other"], "'other' is one argument too many"),
        (["m", "--model", "other"], "two models are named"),
        ([], "which model?"),
        (["m", "--dtype", "int3"], "--dtype"),
        (["m", "--port", "99999"], "--port"),
        (["m", "--gpu-memory-utilization", "1.5"], "--gpu-memory-utilization"),
        (["m", "--max-num-seqs", "300", "--max-num-batched-tokens", "100"], "--max-num-batched-tokens 100 is less"),
        (["m", "--kv-cache-dtype", "fp8"], "--kv-cache-dtype fp8: KV blocks are"),
        (
            ["m", "--tool-call-parser", "hermse"],
            "--tool-call-parser hermse: there is no such format; did you mean hermes?",
        ),
        (["m", "--tool-call-parser", "kimi_k3"], "--tool-call-parser kimi_k3: its XTML elements are not described yet"),
        (["m", "--reasoning-parser", "hermes"], "--reasoning-parser hermes: there is no such format; it is one of"),
        (["m", "--tool-parser-plugin", "x.py"], "--tool-parser-plugin x.py: no code is loaded"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(argv, message, capsys):
    """No traceback, and nothing was started."""
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("octavo serve: ")
    assert message in error
    assert "Traceback" not in error


def test_help_lists_the_flags(capsys):
    """The exit code is 0."""
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "--max-model-len" in capsys.readouterr().out


def test_longest_step_is_half_a_second_unless_said():
    """0 leaves steps to their tokens."""
    assert parse_with_notes(["m"])[0].scheduler.max_step_seconds == 0.5
    assert parse_with_notes(["m", "--max-step-seconds", "0"])[0].scheduler.max_step_seconds == 0


@pytest.mark.parametrize(
    "action", [a for a in build_parser()._actions if a.option_strings], ids=lambda a: a.option_strings[0]
)
def test_every_flag_says_what_it_does_and_its_own_default(action):
    """A number, `on` or `off` that the help gives as the default is the parser's."""
    assert action.help
    said = re.search(r"default: (on|off|\d+(?:\.\d+)?|\w+)$", action.help)
    if said is None or action.default in (None, argparse.SUPPRESS, []):  # by device, by the model, or in words
        return
    written = {True: "on", False: "off"}.get(action.default) if isinstance(action.default, bool) else action.default
    assert said[1] == f"{written:g}" if isinstance(written, float) else said[1] == str(written)


# Names and defaults of `vllm serve` 0.32, read from vllm/engine/arg_utils.py, vllm/config and vllm/entrypoints/launchers/cli_args.py;
# null: no default that could be written, or none at all.
VLLM_FLAGS = json.loads(Path(__file__).with_name("vllm_flags.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(VLLM_FLAGS))
def test_every_flag_of_vllms_is_known_and_its_default_stops_nothing(name):
    """Written out, the default asks for what a server without the flag does in vLLM, too."""
    default = VLLM_FLAGS[name]
    switch = isinstance(default, bool)
    if switch or default:
        argv = [f"--{'' if default else 'no-'}{name}"] if switch else [f"--{name}", default]
        parse_with_notes(["m", *argv])
    refused = ""
    try:
        parse_with_notes(["m", f"--{name}"] if switch else ["m", f"--{name}", "1"])
    except (ConfigError, SystemExit) as error:  # argparse exits at a wrong value
        refused = str(error)
    assert "there is no flag" not in refused


@pytest.mark.parametrize(
    ("variables", "expected", "remark"),
    [
        ({"VLLM_LOGGING_LEVEL": "DEBUG"}, ("debug", None), None),
        ({"VLLM_CPU_KVCACHE_SPACE": "2"}, ("info", 2 << 30), None),
        ({"VLLM_CPU_KVCACHE_SPACE": "0"}, ("info", None), None),
        ({"VLLM_NO_USAGE_STATS": "1", "VLLM_USE_V1": "1"}, ("info", None), "VLLM_USE_V1: "),
        (
            {"VLLM_SERVICE_HOST": "10.0.0.1", "VLLM_PORT": "tcp://10.0.0.1:80", "VLLM_PORT_80_TCP_PORT": "80"},
            ("info", None),
            None,
        ),
        ({"VLLM_B": "1", "VLLM_A": "2", "VLLM_C": ""}, ("info", None), "VLLM_A, VLLM_B: "),
    ],
)
def test_variables_of_vllms_are_honoured_or_named(monkeypatch, variables, expected, remark):
    """In one line; what Kubernetes sets for a Service called vllm is not vLLM's."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config, notes = parse_with_notes(["m"])
    assert (config.server.log_level, config.cache.kv_cache_memory_bytes) == expected
    assert [note.partition("set in")[0] for note in notes] == ([] if remark is None else [remark])
    config, _ = parse_with_notes(["m", "--log-level", "error", "--kv-cache-memory-bytes", "1G"])
    assert (config.server.log_level, config.cache.kv_cache_memory_bytes) == ("error", 1 << 30)


def test_a_variable_that_asks_for_what_is_not_done_is_answered_with_the_reason(monkeypatch):
    """Apart from those that have no meaning here at all."""
    for name in ("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "VLLM_LOGGING_CONFIG_PATH", "VLLM_A"):
        monkeypatch.setenv(name, "1")
    long, logging, other = parse_with_notes(["m"])[1]
    assert long.startswith("the environment's VLLM_ALLOW_LONG_MAX_MODEL_LEN has no effect: a context longer than")
    assert "--log-format json" in logging
    assert other.startswith("VLLM_A: ")


@pytest.mark.parametrize(("name", "value"), [("VLLM_LOGGING_LEVEL", "loud"), ("VLLM_CPU_KVCACHE_SPACE", "4G")])
def test_a_variable_with_a_wrong_value_is_named(monkeypatch, name, value):
    """Ignored, it would leave a server other than the one that was asked for."""
    monkeypatch.setenv(name, value)
    assert f"{name} is '{value}'" in refusal("m")
