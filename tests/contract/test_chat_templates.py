"""The chat templates that a manifest names are those that the engine has built in."""

from __future__ import annotations

from typing import get_args

from octavo_testing.children_cases import engine_of, rendered

from octavo_engine.cli.arguments import parse
from octavo_engine.text.named_templates import NAMED_TEMPLATES
from octavo_operator.api.model import ChatTemplateName
from octavo_operator.runtimes import OCTAVO


def test_manifest_and_engine_know_the_same_names():
    assert list(get_args(ChatTemplateName)) == list(NAMED_TEMPLATES)
    assert list(OCTAVO.templates_since) == list(NAMED_TEMPLATES)


def test_a_name_reaches_the_engine_as_a_name():
    children = rendered(model={"uri": "hf://o/n", "chatTemplate": {"name": "phi-2"}})
    model = parse(list(engine_of(children)["args"])).model
    assert (model.chat_template_name, model.chat_template) == ("phi-2", None)
