"""Descriptions of the types' fields, read from the string below each.

pydantic can do this at import (`use_attribute_docstrings`), which costs every start a third of a second; only what
is generated needs it, so it is read there.
"""

from __future__ import annotations

import ast
import inspect
import textwrap

from pydantic import BaseModel


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Field name to its description, on one line; fields without one are absent."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, follower in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(follower, ast.Expr)
            and isinstance(follower.value, ast.Constant)
            and isinstance(follower.value.value, str)
        ):
            found[statement.target.id] = " ".join(follower.value.value.split())
    return found
