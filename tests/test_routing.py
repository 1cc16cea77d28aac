"""The rules of routes (chatcore/routing.py)."""

import pytest
from quart import Quart
from quart.routing import QuartRule
from werkzeug.routing import BuildError

from chatcore.routing import Rule


def app() -> Quart:
    made = Quart("shop", static_folder=None)
    made.url_rule_class = Rule

    @made.get("/things/<int:number>/<path:name>")
    @made.get("/first", defaults={"number": 1, "name": "first"})
    async def thing(number: int, name: str) -> str:
        return f"{number} {name}"

    return made


@pytest.mark.parametrize("path", ["/things/2/a/b", "//things/2/a/b"])
async def test_a_request_finds_its_view(path: str) -> None:
    """Also one that is sent on to the address as it should be."""
    answer = await app().test_client().get(path, follow_redirects=True)
    assert await answer.get_data(as_text=True) == "2 a/b"


async def test_urls_can_be_built() -> None:
    """With what the rule does not know as the query, and with the values that a rule has for itself."""
    made = app()
    async with made.test_request_context("/"):
        assert made.url_for("thing", number=2, name="a b") == "/things/2/a%20b"
        assert made.url_for("thing", number=2, name="a/b", color="red") == "/things/2/a/b?color=red"
        assert made.url_for("thing", number=1, name="first") == "/first"
        with pytest.raises(BuildError):
            made.url_for("thing", number=2)


def test_how_urls_are_built_is_compiled_when_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than all the rest of registering a route. It is done once."""
    compiled: list[bool] = []

    def compile_builder(self: QuartRule, append_unknown: bool) -> object:
        compiled.append(append_unknown)
        return compile_as_ever(self, append_unknown)

    compile_as_ever = QuartRule._compile_builder
    monkeypatch.setattr(QuartRule, "_compile_builder", compile_builder)
    rule = Rule("/things/<name>", endpoint="thing")
    Quart("shop", static_folder=None).url_map.add(rule)
    assert not compiled
    assert rule.build({"name": "a"}) == rule.build({"name": "a"}) == ("", "/things/a")
    assert len(compiled) == 1


@pytest.mark.parametrize("rule", ["/<", "/<strange:name>", "/<name>/<name>"])
def test_a_malformed_rule_is_refused_at_once(rule: str) -> None:
    """Not when somebody asks for it."""
    with pytest.raises((LookupError, ValueError, SyntaxError)):
        Quart("shop", static_folder=None).url_map.add(Rule(rule, endpoint="thing"))


def test_a_wrong_default_is_refused_at_once() -> None:
    """As the rule itself."""
    with pytest.raises(ValueError, match="number"):
        Quart("shop", static_folder=None).url_map.add(Rule("/<int:n>", endpoint="thing", defaults={"n": "a number"}))
