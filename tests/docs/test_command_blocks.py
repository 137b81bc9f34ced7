"""The commands that the documentation gives are taken by this tree.

`e2e/test_first_steps.py` runs the README's and the notes' commands on a real cluster; here all documents' are parsed.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
from functools import cache

import pytest
import yaml
from command_checks import VERSION, check, check_set, field
from documents import PAGES, ROOT, Command, blocks, commands, script, span_commands, spans

from octavo_operator.api.manifest import load_manifest
from octavo_operator.metrics_api.catalog import METRICS


@pytest.mark.parametrize("block", blocks("", "sh", "bash", "shell"), ids=str)
def test_every_command_of_a_block_is_taken(block):
    """`bash -n` parses the block, and each program that it calls takes the words; blocks of other text say so."""
    text = script(block)
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = list(commands(text, str(block)))
    assert found
    for command in found:
        check(command)


def test_every_command_in_a_sentence_is_taken():
    found = list(span_commands())
    assert len(found) > 50
    for command in found:
        check(command)


def test_every_value_and_field_in_a_sentence_exists():
    """`--set A=B`, and fields of an LLMService by their whole path."""
    for page in PAGES:
        for where, span in spans(page):
            try:
                if span.startswith("--set "):
                    for text in re.findall(r"--set (?:'([^']+)'|(\S+))", span):
                        check_set("".join(text))
                elif re.fullmatch(r"(spec|status)(\.(?!py$)[A-Za-z]+)+(: .*)?", span):
                    field(span.partition(":")[0])
            except AssertionError as error:
                pytest.fail(f"{where}: {span}: {error}", pytrace=False)


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_every_yaml_block_is_taken(block):
    """Whole services and their parts by the API's own types."""
    for document in yaml.safe_load_all(block.text):
        if "spec" in document and document.get("kind", "LLMService") == "LLMService":
            whole = {"apiVersion": "octavo.dev/v1alpha1", "kind": "LLMService", "metadata": {"name": "x"}} | document
            load_manifest(yaml.safe_dump({**whole, "spec": {"model": {"uri": "hf://org/name"}, **whole["spec"]}}))
        elif "metrics" in document:
            part = {"maxReplicas": 2, "metrics": document["metrics"]}
            spec = {"model": {"uri": "hf://org/name"}, "autoscaling": part}
            head = {"apiVersion": "octavo.dev/v1alpha1", "kind": "LLMService", "metadata": {"name": "x"}}
            load_manifest(yaml.safe_dump({**head, "spec": spec}))
            assert {each["pods"]["metric"]["name"] for each in document["metrics"]} <= set(METRICS)
        else:
            assert document["kind"] == "Kustomization", "what would try it?"  # tests/gitops has Flux evaluate it


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_every_python_block_compiles_and_imports_what_is_there(block):
    for node in ast.walk(ast.parse(block.text)):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
        assert all(importlib.util.find_spec(name) for name in names), names


@pytest.mark.parametrize("block", blocks("dockerfile"), ids=str)
def test_a_dockerfiles_command_is_taken(block):
    for run in re.findall(r"^RUN (\[.*?\])$", block.text, re.MULTILINE | re.DOTALL):
        words = json.loads(run.replace("\\\n", ""))
        check(Command(str(block), tuple(words)))


def test_blocks_have_no_other_language():
    """`text` is what is not to be typed."""
    known = ["", "text", "yaml", "python", "dockerfile", "sh", "bash", "shell"]
    fences = sum(len(re.findall(r"^```\w*$", page.read_text(), re.MULTILINE)) for page in PAGES)
    assert len(blocks(*known)) - 1 == fences // 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page):
    """Images in this version, environment variables that some source reads, and files that links lead to."""
    text = page.read_text(encoding="utf-8")
    tags = set(re.findall(r"octavo/(?:engine|operator):([\w.-]+)", text))
    assert tags <= {VERSION, f"{VERSION}-cuda", "VERSION", "VERSION-cuda"}
    assert {
        name for name in re.findall(r"\b(?:OCTAVO|VLLM|TRITON|KUBEBUILDER)_[A-Z_]+", text) if name not in sources()
    } == set()
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text) + re.findall(r' src(?:set)?="([^"]+)"', text)
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_images_of_the_manifests_are_all_renamed():
    """The installation's `sed` runs on the file that it is for."""
    page = (ROOT / "docs/installing.md").read_text()
    (expression,) = re.findall(r"sed -i '(s#.*?)'", page)
    manifest = (ROOT / "config/operator/deployment.yaml").read_text()
    renamed = subprocess.run(["sed", expression], input=manifest, capture_output=True, text=True, check=True).stdout
    images = re.findall(r"(?:image: |--image=(?:[\w-]+=)?)\"?([\w./:-]+)", renamed)
    assert len(images) > 2
    assert all(image.startswith("registry.example/team/octavo/") for image in images), images


@cache
def sources() -> str:
    listed = subprocess.run(
        ["git", "ls-files", "--", ":!*.md", ":!tests/docs"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    paths = [ROOT / name for name in listed.split()]
    return "\n".join(
        p.read_text("utf-8", errors="replace") for p in paths if p.suffix not in {".json", ".svg", ".lock"}
    )
