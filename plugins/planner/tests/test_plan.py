"""Reading what a model has written as a plan (chatcore_planner/plan.py, contexts.py, consent.py)."""

from typing import Any

import attrs
import pytest
from chatcore_planner.consent import consent_in, details_of
from chatcore_planner.contexts import contexts_of
from chatcore_planner.plan import Plan, Unusable, parse

from chatcore import wire
from chatcore.tools import Tool


async def act() -> str:
    """Acts."""
    return ""


def tools(*names: str) -> list[Tool]:
    return [Tool.of(act, name=name) for name in names]


CONTEXTS = contexts_of(tools("calendar_list", "calendar_add", "gmail_search"), {})


def read(**given: Any) -> Plan:
    return parse(wire.dumps(given).decode(), CONTEXTS)


def test_contexts_come_from_names_or_patterns() -> None:
    """A tool may be in several."""
    named = tools("calendar_list", "files__read", "list-mails", "now")
    assert list(contexts_of(named, {})) == ["calendar", "files", "list", "now"]
    grouped = contexts_of(named, {"Office": ("calendar_*", "list-*"), "lists": ("*list*",)})
    assert {context: [tool.name for tool in members] for context, members in grouped.items()} == {
        "office": ["calendar_list", "list-mails"],
        "lists": ["calendar_list", "list-mails"],
        "files": ["files__read"],
        "now": ["now"],
    }


def test_contexts_that_a_tool_names_itself() -> None:
    """Count before its name, and after the patterns."""
    named = [attrs.evolve(tool, contexts=("office", "mail")) for tool in tools("gmail_search", "gmail_send")]
    assert list(contexts_of(named, {})) == ["office", "mail"]
    assert list(contexts_of(named, {"sending": ("*_send",)})) == ["office", "mail", "sending"]


def test_a_whole_plan() -> None:
    """In the form that is asked for; it may stand in another object."""
    given = {
        "intent": " See whom I meet. ",
        "stages": [["Calendar", "calendar"], ["gmail"]],
        "ranked_contexts": ["gmail"],
        "candidate_tools": {"calendar": [{"name": "calendar_list", "score": 1}, "calendar_add", 3], "weather": ["x"]},
        "argument_hints": {"calendar_list": ["tomorrow"]},
        "broad_search": False,
        "stop_conditions": ["a name is known"],
        "privacy_note": "Your mails are read.",
    }
    plan = Plan(
        intent="See whom I meet.",
        stages=(("calendar",), ("gmail",)),
        ranked=("gmail",),
        broad=False,
        candidates={"calendar": ("calendar_list", "calendar_add")},
        hints={"calendar_list": ("tomorrow",)},
        stop_conditions=("a name is known",),
        privacy_note="Your mails are read.",
    )
    assert read(**given) == plan
    assert read(plan=given) == plan
    assert parse(f"Here it is:\n```json\n{wire.dumps(given).decode()}\n```", CONTEXTS) == plan
    assert plan.contexts == ("calendar", "gmail")


@pytest.mark.parametrize(
    ("given", "stages"),
    [
        ({}, ()),
        ({"stages": []}, ()),
        ({"attempts": [["gmail"]]}, (("gmail",),)),
        ({"stages": ["gmail", "calendar"]}, (("gmail",), ("calendar",))),
        ({"stages": [["gmail_search", "weather"], ["weather"]]}, (("gmail",),)),
        ({"ranked_contexts": ["calendar", "gmail"]}, (("calendar", "gmail"),)),
        ({"stages": [["__all__"]]}, (("__all__",),)),
        ({"stages": [[3, None, {}]]}, ()),
    ],
)
def test_stages(given: dict[str, Any], stages: tuple[tuple[str, ...], ...]) -> None:
    """Of contexts that there are; a tool stands for its own; where there are none, the ranked ones are one stage."""
    assert read(**given).stages == stages


@pytest.mark.parametrize("text", ["", "no", "[]", "{", '{"stages": "calendar"}', '"{}"', "{" * 10_000])
def test_what_is_no_plan(text: str) -> None:
    """It is told, whatever it is."""
    if text == '"{}"':
        assert parse(text, CONTEXTS) == Plan()
        return
    with pytest.raises(Unusable):
        parse(text, CONTEXTS)


@pytest.mark.parametrize(
    ("given", "consent"),
    [
        (True, "granted"),
        (False, "denied"),
        ("Allowed", "granted"),
        (" no ", "denied"),
        ({"status": "approved", "by": "Ada"}, "granted"),
        ({"status": False}, "denied"),
        ("perhaps", None),
        ({}, None),
        (None, None),
        (1, None),
    ],
)
def test_consent(given: Any, consent: str | None) -> None:
    """In all the forms that clients use."""
    assert consent_in(given) == consent


def test_the_details_of_consent_are_plain() -> None:
    """What else an object says."""
    assert details_of({"status": "yes", "by": "Ada", "at": 3, "more": {}}) == {"by": "Ada", "at": 3}
    assert details_of("yes") == {}
