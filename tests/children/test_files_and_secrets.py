"""The sources of a pod's files and secrets."""

from __future__ import annotations

from octavo_testing.children_cases import engine_of, pod_of, rendered


def test_the_api_key_comes_from_its_secret():
    env = engine_of(rendered(auth={"apiKeys": {"secretName": "keys"}}))["env"]
    source = {"secretKeyRef": {"name": "keys", "key": "api-keys"}}
    assert {"name": "OCTAVO_API_KEY", "valueFrom": source} in env


def test_the_api_keys_are_a_file_that_follows_its_secret():
    """A folder is mounted, for the kubelet changes nothing that is mounted by subPath."""
    children = rendered(auth={"apiKeys": {"secretName": "keys"}})
    (path,) = [each["value"] for each in engine_of(children)["env"] if each["name"] == "OCTAVO_API_KEY_FILE"]
    (mount,) = [m for m in engine_of(children)["volumeMounts"] if path.startswith(f"{m['mountPath']}/")]
    (volume,) = [v for v in pod_of(children)["volumes"] if v["name"] == mount["name"]]
    assert "subPath" not in mount
    file = path.removeprefix(f"{mount['mountPath']}/")
    assert volume["secret"] == {"secretName": "keys", "items": [{"key": "api-keys", "path": file}]}


def test_vllm_which_reads_its_keys_once_has_no_such_file():
    children = rendered(auth={"apiKeys": {"secretName": "keys"}}, engine={"runtime": "vllm"})
    assert not [v for v in pod_of(children)["volumes"] if "secret" in v]


def test_the_chat_template_lies_where_the_engines_flag_points():
    children = rendered(model={"uri": "hf://o/n", "chatTemplate": {"configMapName": "t", "key": "x"}})
    words = engine_of(children)["args"]
    path = words[words.index("--chat-template") + 1]
    (mount,) = [m for m in engine_of(children)["volumeMounts"] if path.startswith(f"{m['mountPath']}/")]
    (volume,) = [v for v in pod_of(children)["volumes"] if v["name"] == mount["name"]]
    file = path.removeprefix(f"{mount['mountPath']}/")
    assert volume["configMap"] == {"name": "t", "items": [{"key": "x", "path": file}]}


def test_a_built_in_chat_template_is_named_and_nothing_is_mounted():
    children = rendered(model={"uri": "hf://o/n", "chatTemplate": {"name": "phi-2"}})
    words = engine_of(children)["args"]
    assert words[words.index("--chat-template") + 1] == "phi-2"
    assert not [m for m in engine_of(children)["volumeMounts"] if m["name"] == "chat-template"]
    assert not [v for v in pod_of(children)["volumes"] if "configMap" in v]


def test_the_image_is_pulled_as_it_was_said():
    image = {"repository": "r/x", "digest": f"sha256:{'0' * 64}", "pullPolicy": "Always", "pullSecrets": ["a"]}
    children = rendered(engine={"image": image})
    assert engine_of(children)["image"] == f"r/x@sha256:{'0' * 64}"
    assert engine_of(children)["imagePullPolicy"] == "Always"
    assert pod_of(children)["imagePullSecrets"] == [{"name": "a"}]


def test_services_of_the_namespace_set_no_variables():
    """A Service called vllm would set VLLM_PORT to an address, and the engine would end with that."""
    assert pod_of(rendered())["enableServiceLinks"] is False
