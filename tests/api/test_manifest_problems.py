"""Everything that is wrong in a manifest is reported at once: line, field, what it is, and what was meant."""

import re

import pytest

from octavo_operator.api.manifest import load_manifest, read_manifest
from octavo_operator.errors import ManifestError

HEAD = "apiVersion: octavo.dev/v1alpha1\nkind: LLMService\nmetadata: {name: a}\n"


def problems(spec: str, head: str = HEAD) -> list[str]:
    """The problems of a manifest with this spec (from line 4 on), as text."""
    with pytest.raises(ManifestError) as caught:
        load_manifest(f"{head}spec:\n{spec}")
    return [str(problem) for problem in caught.value.problems]


def problem(spec: str) -> str:
    (only,) = problems(spec)
    return only


def with_model(rest: str) -> str:
    return f"  model: {{uri: hf://a/b}}\n{rest}"


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("  engine: {maxModelLenn: 5}", "spec.engine.maxModelLenn: there is no such field; did you mean maxModelLen?"),
        ("  engine: {max_model_len: 5}", "did you mean maxModelLen?"),
        ("  engine: {tensorParalelSize: 2}", "did you mean tensorParallelSize?"),
        ("  replica: 2", "spec.replica: there is no such field; did you mean replicas?"),
        ("  engine: {zebra: 2}", "known here: runtime, image, tensorParallelSize"),
        ("  engine: {image: {tagg: x}}", "spec.engine.image.tagg: there is no such field; did you mean tag?"),
        (
            "  engine: {env: [{name: A, vlaue: b}]}",
            "spec.engine.env[0].vlaue: there is no such field; did you mean value?",
        ),
        ("  engine: {dtype: bf16}", "is not one of auto, float32, float16, bfloat16; did you mean bfloat16?"),
        ("  engine: {runtime: vlm}", "did you mean vllm?"),
        ("  rollout: {strategy: inplace}", "did you mean InPlace?"),
        ('  engine: {maxModelLen: "4096"}', 'must be a whole number, not the text "4096"; write 4096 without quotes'),
        ("  engine: {maxModelLen: 0}", "0 is out of range; it must be at least 1"),
        ("  engine: {gpuMemoryUtilization: 90}", "90 is out of range; it must be at most 1"),
        ("  engine: {enforceEager: 'yes'}", "must be true or false"),
        ("  engine: {args: [--seed, 5]}", 'spec.engine.args[1]: must be text, not 5; quote it: "5"'),
        ("  engine: {args: '--seed'}", "must be a list"),
        ("  engine: {blockSize: 20}", "20 is not one of 16, 32, 64, 128"),
        ("  sharedMemory: 16GB", "did you mean 16G?"),
        ("  rollout: {drainTimeout: 30}", "needs a unit; write 30s for seconds"),
        ("  auth: {apiKeys: {secretName: My_Keys}}", "did you mean my-keys?"),
        ("  service: {port: 80000}", "80000 is out of range; it must be at most 65535"),
    ],
)
def test_a_wrong_field_is_reported_with_its_remedy(rest, message):
    assert message in problem(with_model(rest))


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (
            "  autoscaling: {minReplicas: 3, maxReplicas: 2}",
            "spec.autoscaling.minReplicas: 3 is more than maxReplicas, 2; raise maxReplicas to 3 at least",
        ),
        ("  replicas: 2\n  autoscaling: {maxReplicas: 2}", "spec.replicas: is set beside autoscaling"),
        ("  cache: {existingClaim: a, size: 3Gi}", "spec.cache.size: is set beside existingClaim"),
        ("  cache: {existingClaim: a, retain: true}", "spec.cache.retain: an existing claim is never deleted"),
        (
            "  resources: {requests: {memory: 3Gi}, limits: {memory: 2Gi}}",
            "spec.resources.requests.memory: 3Gi is more than the limit, 2Gi",
        ),
        (
            "  resources: {limits: {nvidia.com/gpu: 1}}",
            'spec.resources.limits["nvidia.com/gpu"]: the number of GPUs follows from the parallel sizes',
        ),
        ("  engine: {maxNumSeqs: 64, maxNumBatchedTokens: 32}", "raise it to 64 at least"),
        (
            "  engine: {args: [--max-model-len, '4']}",
            "args[0]: --max-model-len repeats a field of this API; set spec.engine.maxModelLen instead",
        ),
        ("  engine: {args: [--max_model_len=4]}", "set spec.engine.maxModelLen instead"),
        ("  engine: {args: [-tp, '2']}", "set spec.engine.tensorParallelSize instead"),
        ("  engine: {args: [--no-enable-prefix-caching]}", "set spec.engine.prefixCaching instead"),
        ("  engine: {args: [--api-key=x]}", "set spec.auth.apiKeys instead"),
        ("  engine: {args: ['--seed 5']}", 'write "--seed" and "5" apart'),
        (
            "  accelerator: {vendor: cpu, products: [A]}",
            "spec.accelerator.products: names GPUs, and vendor: cpu has none",
        ),
        (
            "  accelerator: {vendor: cpu}\n  engine: {tensorParallelSize: 2}",
            "spec.engine.tensorParallelSize: splits a model across GPUs",
        ),
        ("  engine: {env: [{name: A, value: b, valueFrom: {fieldRef: {}}}]}", "valueFrom: is set beside value"),
        ("  engine: {env: [{name: A, valueFrom: {}}]}", "needs exactly one of secretKeyRef"),
    ],
)
def test_fields_that_contradict_each_other_are_reported(rest, message):
    assert message in problem(with_model(rest))


def test_all_problems_come_at_once_with_their_lines():
    message = problems(
        "  model:\n    uri: a/b\n  engine:\n    dtype: bf16\n    args: ['--port=1']\n  replicas: 2\n"
        "  autoscaling: {minReplicas: 9, maxReplicas: 2}\n"
    )
    assert [re.match(r"line (\d+): ([\w.\[\]]+):", line).groups() for line in message] == [
        ("6", "spec.model.uri"),
        ("8", "spec.engine.dtype"),
        ("9", "spec.engine.args[0]"),
        ("10", "spec.replicas"),
        ("11", "spec.autoscaling.minReplicas"),
    ]


def test_what_is_required_is_reported_where_it_is_missing():
    assert problem("  model: {}\n") == "line 5: spec.model.uri: is required"


def test_a_name_that_no_service_could_have_is_refused():
    head = HEAD.replace("{name: a}", "{name: My_Model}")
    (message,) = problems("  model: {uri: hf://a/b}", head)
    assert "must be lower-case letters, digits and '-', beginning with a letter; did you mean my-model?" in message


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (HEAD.replace("v1alpha1", "v1"), 'apiVersion: the text "octavo.dev/v1" is not one of octavo.dev/v1alpha1'),
        (HEAD.replace("LLMService", "LLMservice"), "did you mean LLMService?"),
        (HEAD.replace("LLMService", "Llm"), "kind: "),
        (HEAD.replace("apiVersion: octavo.dev/v1alpha1\n", ""), "apiVersion: is required"),
    ],
)
def test_a_wrong_version_or_kind_is_reported(head, message):
    (only,) = problems("  model: {uri: hf://a/b}", head)
    assert message in only


def test_a_key_that_stands_twice_is_refused_with_both_lines():
    (message,) = problems("  model: {uri: hf://a/b}\n  replicas: 1\n  replicas: 2\n")
    assert message == "line 7: spec.replicas: stands twice, first on line 6; remove one of the two"


def test_text_that_is_no_yaml_is_reported_with_its_line():
    assert problem("  model: {uri: hf://a/b\n  replicas: 1\n").startswith("line ")
    assert "is not YAML" in problem("\tmodel: 1\n")


def test_text_that_is_nested_without_end_is_refused():
    assert problem(f"  model: {'[' * 5000}\n") == "is nested too deeply"


def test_an_alias_that_contains_itself_or_explodes_is_refused():
    assert "an alias contains itself" in problem("  model: &a {uri: *a}\n")
    layers = "\n".join(f"  l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 8))
    assert "more than 100000 values" in problem(f"  l0: &l0 [1]\n{layers}\n")


def test_a_file_without_an_llmservice_says_what_it_holds():
    with pytest.raises(ManifestError, match="holds no LLMService, only Deployment web; it needs apiVersion"):
        read_manifest("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n")


def test_a_file_that_does_not_exist_is_one_sentence(tmp_path):
    with pytest.raises(ManifestError, match=r"can't be read: No such file"):
        read_manifest(tmp_path / "none.yaml")


def test_a_secret_that_is_not_base64_is_reported():
    text = f"{HEAD}spec: {{model: {{uri: hf://a/b}}}}\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\ndata: {{k: '%'}}\n"
    with pytest.raises(ManifestError, match=r"Secret s: data.k: is not base64"):
        read_manifest(text)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{name: phi2}",
            'chatTemplate.name: the text "phi2" is not one of alpaca, chatml, falcon, phi-2, vicuna; did you mean phi-2?',
        ),
        ("{name: phi-2, key: a}", "chatTemplate.name: is set beside configMapName or key, which name another template"),
        ("{}", "chatTemplate: names no template; set name, or configMapName and key"),
        ("{configMapName: a}", "chatTemplate.key: is missing beside configMapName; set both"),
        ("{key: a, name: null}", "chatTemplate.configMapName: is missing beside key; set both"),
    ],
)
def test_a_chat_template_is_one_name_or_one_key_of_a_config_map(template, words):
    assert f"spec.model.{words}" in problem(f"  model: {{uri: hf://a/b, chatTemplate: {template}}}")
