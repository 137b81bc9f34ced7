"""The mark `sample`, a pytest plugin: which cases of a parametrized test `make test` runs.

`@pytest.mark.sample(name=["sinks", "window"], dtype=[torch.bfloat16])` leaves all other cases to `make test-all`, as if
they were marked slow. Of several such marks each adds the cases that it names.
"""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)  # before pytest looks at `-m`
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    quick: dict[str, bool] = {}  # test without its parameters: `make test` runs some case of it
    for item in items:
        marks = list(item.iter_markers("sample"))
        if not marks:
            continue
        test = item.nodeid.partition("[")[0]
        chosen = any(_matches(item, mark) for mark in marks)
        quick[test] = quick.get(test, False) or chosen
        if not chosen:
            item.add_marker(pytest.mark.slow)
    empty = sorted(test for test, any_quick in quick.items() if not any_quick)
    if empty and not any("::" in argument for argument in config.args):
        raise pytest.UsageError(
            f"these tests have a mark `sample` that matches none of their cases: {', '.join(empty)}"
        )


def _matches(item: pytest.Item, mark: pytest.Mark) -> bool:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    unknown = mark.kwargs.keys() - parameters.keys()
    if mark.args or unknown:
        raise pytest.UsageError(f"{item.nodeid}: `sample` names parameters of the test, not {[*mark.args, *unknown]}")
    return all(parameters[name] in values for name, values in mark.kwargs.items())
