"""The samples' children are held as YAML: what changes in them is seen before it is committed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from octavo_testing.children_cases import CASES, rendered_sample
from octavo_testing.golden import assert_golden

from octavo_operator.verbs.printout import as_yaml

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("case", CASES)
def test_a_samples_children_are_as_they_were(case):
    """OCTAVO_UPDATE_GOLDEN=1 rewrites the golden children: look at the diff before committing it."""
    assert_golden(as_yaml(rendered_sample(case)) + "\n", GOLDEN / f"{case}.yaml")


@pytest.mark.parametrize("case", CASES)
def test_what_is_printed_reads_back_as_what_was_rendered(case):
    children = rendered_sample(case)
    assert list(yaml.safe_load_all(as_yaml(children))) == list(children)


@pytest.mark.parametrize("case", CASES)
def test_rendering_twice_gives_the_same_bytes(case):
    assert as_yaml(rendered_sample(case)) == as_yaml(rendered_sample(case))


def test_no_golden_file_is_left_over():
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(CASES)
