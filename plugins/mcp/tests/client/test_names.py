"""What tools are called."""

import random
import re

from chatcore_mcp.names import exposed

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def test_a_tool_keeps_its_name_if_nobody_else_has_it():
    """Where two servers have it, both are prefixed; what no model would accept is replaced."""
    tools = [("a", "search"), ("b", "search"), ("a", "read.file"), ("my server", "go"), ("b", "go")]
    assert exposed(tools, {}) == {
        ("a", "search"): "a__search",
        ("b", "search"): "b__search",
        ("a", "read.file"): "read_file",
        ("my server", "go"): "my_server__go",
        ("b", "go"): "b__go",
    }


def test_a_prefix_is_always_put_before_the_tools_of_its_server():
    """Then the other server's tool has the name alone."""
    names = exposed([("a", "search"), ("b", "search")], {"a": "first"})
    assert names == {("a", "search"): "first__search", ("b", "search"): "search"}


def test_names_that_are_still_the_same_get_a_digest():
    """As two of one server that differ only in what is replaced, or two that are too long."""
    names = exposed([("a", "x.y"), ("a", "x_y"), ("b", "l" * 65), ("b", "l" * 66), ("b", "")], {})
    assert len(set(names.values())) == 5
    assert all(NAME.fullmatch(name) for name in names.values())
    assert names["a", "x.y"].startswith("a__x_y_")


def test_nobody_takes_the_name_that_another_is_given():
    """By calling a tool as another's is called with its server before it, or with its digest behind it."""
    tools = [("a", "search"), ("b", "search")]
    for _ in range(2):
        tools += [("evil", name) for name in exposed(tools, {}).values()]
    assert len(set(exposed(tools, {}).values())) == len(set(tools))


def test_every_name_is_valid_and_nobody_elses_in_any_order():
    """Whatever servers and tools are called, and in whatever order they come."""
    chance = random.Random(7)
    letters = "ab_-. ä/\0\N{GRINNING FACE}"
    for _ in range(300):
        words = ["".join(chance.choices(letters, k=chance.choice([0, 1, 2, 3, 70]))) for _ in range(6)]
        tools = [(chance.choice(words), chance.choice(words)) for _ in range(20)]
        names = exposed(tools, {})
        assert len(set(names.values())) == len(set(tools))
        assert all(NAME.fullmatch(name) for name in names.values())
        chance.shuffle(tools)
        assert exposed(tools, {}) == names
