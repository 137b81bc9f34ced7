"""Built-in chat templates write what authors document, and say where an answer of theirs ends."""

from __future__ import annotations

import pytest

from octavo_engine.errors import RequestError
from octavo_engine.text.chat_template import ANSWER, ANSWER_MARK, QUESTION, ChatTemplate
from octavo_engine.text.named_templates import NAMED_TEMPLATES, template_of_family
from octavo_engine.text.stop_strings import StopSearch, StopStrings

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
SYSTEM = {"role": "system", "content": "Be brief.\n"}
CHAT = [
    {"role": "user", "content": "Where is Paris? "},
    {"role": "assistant", "content": " In France."},
    {"role": "user", "content": "And Rome?"},
]
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
ALPACA = (
    "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n"
)


@pytest.fixture(params=NAMED_TEMPLATES)
def named(request):
    return NAMED_TEMPLATES[request.param]


@pytest.fixture
def render():
    """Renders a chat by a template of a name."""
    made = []

    def rendered(name, messages, **options):
        made.append(ChatTemplate({}, SPECIAL, override=NAMED_TEMPLATES[name].text))
        return made[-1].render(messages, **options)

    yield rendered
    for template in made:
        template.close()


@pytest.mark.parametrize(
    ("name", "messages", "expected"),
    [
        ("phi-2", CHAT[:1], "Instruct: Where is Paris?\nOutput:"),
        (
            "phi-2",
            [SYSTEM, *CHAT],
            "Be brief.\nInstruct: Where is Paris?\nOutput: In France.\nInstruct: And Rome?\nOutput:",
        ),
        ("chatml", CHAT[:1], "<s><|im_start|>user\nWhere is Paris? <|im_end|>\n<|im_start|>assistant\n"),
        ("alpaca", CHAT[2:], ALPACA + "And Rome?\n\n### Response:"),
        (
            "alpaca",
            [SYSTEM, *CHAT],
            (
                "<s>Be brief.\n\n### Instruction:\nWhere is Paris?\n\n### Response: In France.\n\n"
                "### Instruction:\nAnd Rome?\n\n### Response:"
            ),
        ),
        ("vicuna", CHAT[2:], f"<s>{VICUNA} USER: And Rome? ASSISTANT:"),
        (
            "vicuna",
            [SYSTEM, *CHAT],
            "<s>Be brief. USER: Where is Paris? ASSISTANT: In France.</s>USER: And Rome? ASSISTANT:",
        ),
        ("falcon", CHAT[:1], "\n\nUser: Where is Paris?\n\nAssistant:"),
        (
            "falcon",
            [SYSTEM, *CHAT],
            "Be brief.\n\nUser: Where is Paris?\n\nAssistant: In France.\n\nUser: And Rome?\n\nAssistant:",
        ),
    ],
)
def test_a_chat_is_written_as_its_authors_document(render, name, messages, expected):
    """Written by hand from what the sources beside each template say."""
    assert render(name, messages) == expected


def test_an_answer_ends_before_the_next_turn(named, render):
    """What the template writes behind an answer begins with a stop string, or with EOS, and nothing is left before it."""
    behind = render(named.name, [QUESTION, ANSWER, QUESTION]).partition(ANSWER_MARK)[2]
    if named.name == "vicuna":
        assert behind.startswith(SPECIAL["eos_token"])
        behind = behind.replace(SPECIAL["eos_token"], " ")  # where a base model writes none
    search = StopSearch(StopStrings((), named.stops))
    string, end = search.find(behind)
    assert behind[: end - len(string)] == ""


def test_the_last_message_can_be_continued(named, render):
    """`continue_final_message`."""
    messages = [*CHAT[:1], {"role": "assistant", "content": "In the north of"}]
    text = render(named.name, messages, add_generation_prompt=False, continue_final_message=True)
    assert text.endswith("In the north of")


def test_a_role_that_is_not_documented_is_refused(named, render):
    """A role accepted there would reach the model as text of another one's turn. ChatML names every role."""
    messages = [*CHAT[:1], {"role": "tool", "content": "41.9, 12.5"}]
    if named.name == "chatml":
        assert "<|im_start|>tool\n41.9" in render(named.name, messages)
        return
    with pytest.raises(RequestError, match=f"{named.name} has no role tool"):
        render(named.name, messages)


@pytest.mark.parametrize(
    ("architectures", "name"),
    [
        (["PhiForCausalLM"], "phi-2"),
        (["phi2"], "phi-2"),
        (["Unknown", "FalconForCausalLM"], "falcon"),
        (["LlamaForCausalLM"], None),
        (["GPTNeoXForCausalLM"], None),
        (["Phi3ForCausalLM"], None),
        ([], None),
    ],
)
def test_a_family_has_the_format_that_its_authors_document(architectures, name):
    found = template_of_family(architectures, lambda: 2560)
    assert (found and found.name) == name


@pytest.mark.parametrize("hidden_size", [2048, None])
def test_models_of_another_size_have_no_format_of_phi_2(hidden_size):
    """phi-1 completes code; phi-1.5 answers behind "Answer:". Falcon's format is that of all its sizes."""
    assert template_of_family(["PhiForCausalLM"], lambda: hidden_size) is None
    assert template_of_family(["phi2"], lambda: hidden_size) is None
    assert template_of_family(["FalconForCausalLM"], lambda: hidden_size) is not None


def test_a_family_has_one_format():
    """Whichever came first in the table would win otherwise."""
    families = [family for template in NAMED_TEMPLATES.values() for family in template.families]
    assert len(families) == len(set(families))
