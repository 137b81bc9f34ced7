"""The tree's traps: names that would shadow, files that grew too long, work left undone, imports that cost seconds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("engine", "operator", "testing", "tests", "scripts", "bench", "e2e")
LONGEST = 450
PACKAGES = ("operator/octavo_operator", "engine/octavo_engine", "engine", "testing", "")  # what tests/ mirrors
OTHER_TESTS = {  # folders of tests/ that are named for no package
    "chart": "charts/octavo and config/, which install the same in two ways",
    "contract": "what operator and engine assume of each other",
    "correctness": "the engine's output beside that of transformers, whichever parts compute it",
    "crd": "crds/, which is generated from octavo_operator/api",
    "gitops": "an LLMService as the code of Argo CD and Flux sees it",
    "parallel": "a model over several ranks, from the ring of commands to a whole server",
    "serve": "`octavo serve` end to end: whole processes, over HTTP and by signals",
    "tutorial": "the tutorial's requests",
}
MARKERS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def tracked(*patterns: str) -> list[Path]:
    """Files of the tree that git has or would take in, and that are still there."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return [path for path in (ROOT / name for name in listed) if path.is_file()]


@pytest.fixture(scope="module", autouse=True)
def _in_a_checkout():
    if not (ROOT / ".git").exists():
        pytest.skip("an unpacked source archive has no list of its files; run this in a git checkout")


def modules() -> list[Path]:
    return tracked(*(f"{folder}/**/*.py" for folder in SOURCES), *(f"{folder}/*.py" for folder in SOURCES))


@pytest.mark.parametrize("folder", ["operator", "engine", "tests", "tests/operator"])
def test_folders_named_like_modules_are_no_packages(folder):
    """A package called operator would shadow the standard library's; tests need no packages at all."""
    assert not (ROOT / folder / "__init__.py").exists()


def test_no_folder_of_tests_is_a_package():
    assert tracked("tests/**/__init__.py") == []


def test_each_folder_of_tests_is_named_for_the_package_that_it_tests():
    folders = {path.parent.relative_to(ROOT / "tests") for path in tracked("tests/**/test_*.py")}
    mirrored = {folder for folder in folders if any((ROOT / package / folder).is_dir() for package in PACKAGES)}
    assert {str(folder) for folder in folders - mirrored} == set(OTHER_TESTS)


def test_no_module_on_the_path_is_named_like_one_of_the_standard_library():
    """What lies directly in a folder of sys.path shadows, or is shadowed by, the standard library."""
    roots = [ROOT / "engine", ROOT / "operator", *(p.parent for p in tracked("tests/**/*.py", "tests/*.py"))]
    names = {p.stem: p for root in roots for p in root.glob("*.py")}
    assert {name: str(p) for name, p in names.items() if name in sys.stdlib_module_names} == {}


def test_test_files_have_names_of_their_own():
    """Without packages, two test files of one name can't be imported together."""
    seen: dict[str, Path] = {}
    for path in tracked("tests/**/*.py", "tests/*.py"):
        if path.name != "conftest.py":
            assert path.name not in seen, f"{path} and {seen[path.name]}"
            seen[path.name] = path


def test_no_module_is_named_for_having_no_name():
    assert [str(p) for p in modules() if p.stem in {"utils", "util", "helpers", "helper", "common", "misc"}] == []


def test_no_file_outgrows_its_noun():
    native = tracked("engine/**/*.cpp", "engine/**/*.h", "engine/**/*.inc")
    lengths = {str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines()) for p in (*modules(), *native)}
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}


def test_nothing_is_left_undone_in_the_tree():
    """No marker of unfinished work; this file alone may spell them."""
    texts = tracked("*.py", "*.cpp", "*.h", "*.inc", "*.md", "*.toml", "*.yaml", "Makefile", "*.sh")
    marked = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in texts
        if path != Path(__file__)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if MARKERS.search(line)
    ]
    assert marked == []


def imported_by(*names: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after importing `names`."""
    code = (
        f"import {', '.join(names)}, json, sys; print(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout))


def engine_modules(*folders: str) -> list[str]:
    """Every module under `folders` of octavo_engine, as imported."""
    base = ROOT / "engine" / "octavo_engine"
    assert [folder for folder in folders if not (base / folder).is_dir()] == []
    paths = [p for folder in folders for p in sorted((base / folder).rglob("*.py"))]
    names = (".".join(p.relative_to(base.parent).with_suffix("").parts) for p in paths)
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def test_serving_on_a_cpu_never_imports_torch_or_the_operator():
    """All that the API server's process and the core's process can import with the native executor."""
    server = ["octavo.__main__", "octavo_engine.cli.serve", *engine_modules("server", "text", "core_client")]
    core = [
        "octavo_engine.engine.core_process",
        "octavo_engine.engine.engine_core",
        "octavo_engine.executors.native.executor",
        *engine_modules("core", "weights"),
    ]
    found = imported_by(*server, *core)
    assert found & {"torch", "triton", "transformers", "kopf", "kubernetes", "octavo_operator"} == set()


def test_planning_never_imports_the_engine():
    found = imported_by("octavo_operator.verbs.plan_verb", "octavo_operator.verbs.up_verb")
    assert found & {"octavo_engine", "torch", "numpy", "msgspec"} == set()
