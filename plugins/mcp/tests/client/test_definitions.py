"""What a file says of the servers, in every form in which such files are written."""

import sys
from pathlib import Path
from typing import Any

import pytest
from chatcore_mcp.definitions import Definition, Endpoint, Unusable, define, definition_of

ENVIRON = {"TOKEN": "abc", "EMPTY": ""}


def defined(document: Any) -> dict[str, Definition | Unusable]:
    return dict(define(document, environ=ENVIRON, directory=Path("/etc/chat"))[0])


def one(entry: Any) -> Definition | Unusable:
    return definition_of("x", entry, environ=ENVIRON, directory=Path("/etc/chat"))


def endpoint(entry: Any) -> Endpoint:
    definition = one(entry)
    assert isinstance(definition, Definition), definition
    return definition.endpoint


@pytest.mark.parametrize(
    "document",
    [
        {"servers": [{"id": "x", "command": ["run", "it"]}]},
        [{"id": "x", "command": ["run", "it"]}],
        {"mcpServers": {"x": {"command": "run", "args": ["it"]}}},
        {"servers": {"x": {"type": "stdio", "command": "run", "args": ["it"]}}, "inputs": []},
        {"mcpServers": {"x": {"command": ["run"], "args": ["it"], "alwaysAllow": []}}},
    ],
)
def test_every_form_says_the_same(document: Any):
    """A list, alone or under `servers`; an object under `servers` or `mcpServers`, as desktop clients have it."""
    assert defined(document) == {"x": Definition(id="x", endpoint=Endpoint(transport="stdio", command=("run", "it")))}


def test_both_forms_may_stand_in_one_file():
    """As may nothing at all."""
    both = {"servers": [{"id": "a", "url": "http://a/"}], "mcpServers": {"b": {"url": "http://b/"}}}
    assert list(defined(both)) == ["a", "b"]
    assert defined({}) == defined([]) == defined({"servers": None}) == {}


def test_a_module_is_run_by_our_own_python():
    """As the first of the seeds has it."""
    assert endpoint({"module": "some.server"}).command == (sys.executable, "-m", "some.server")
    assert endpoint({"module": "some.server", "args": ["--fast"]}).command[-1] == "--fast"


@pytest.mark.parametrize(
    ("entry", "transport"),
    [
        ({"url": "http://x/mcp"}, None),
        ({"http_url": "http://x/mcp"}, None),
        ({"url": "http://x/mcp", "type": "http"}, "http"),
        ({"url": "http://x/mcp", "transport": "streamable-http"}, "http"),
        ({"url": "http://x/sse", "type": "SSE"}, "sse"),
    ],
)
def test_a_url_may_say_what_it_speaks(entry: Any, transport: str | None):
    """Where it does not, that is found out."""
    assert endpoint(entry).transport == transport
    assert endpoint(entry).url == (entry.get("url") or entry.get("http_url"))


def test_names_of_the_environment_are_replaced():
    """In the command, its environment, its directory, the URL and the headers."""
    process = endpoint(
        {
            "command": "${TOKEN}",
            "args": ["-${env:TOKEN}-"],
            "env": {"A": "${NO:-none}", "B": "${EMPTY:-b}"},
            "cwd": "${TOKEN}",
        }
    )
    assert process.command == ("abc", "-abc-")
    assert process.env == {"A": "none", "B": "b"}
    assert process.cwd == "/etc/chat/abc"
    remote = endpoint({"url": "http://x/${TOKEN}", "headers": {"Authorization": "Bearer ${TOKEN}"}})
    assert remote.url == "http://x/abc"
    assert remote.headers == {"Authorization": "Bearer abc"}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"command": "${NO}"}, "the environment has no NO: set it, or write ${NO:-default}"),
        ({"command": "${EMPTY}"}, "the environment has no EMPTY"),
        ({"command": "x", "env": {"KEY": "${input:key}"}}, "${input:key} asks for input"),
        ({}, "write one of 'command', 'module' and 'url'"),
        ({"command": []}, "write one of 'command', 'module' and 'url'"),
        ({"command": "x", "url": "http://x"}, "write one of 'command', 'module' and 'url'"),
        ({"url": "ftp://x"}, "'ftp://x' is no http or https URL"),
        ({"url": "x"}, "'x' is no http or https URL"),
        ({"url": "http://"}, "'http://' is no http or https URL"),
        ({"url": "http://x:port/"}, "Port could not be cast"),
        ({"url": "http://[x"}, "Invalid IPv6 URL"),
        ({"url": " http://x"}, "there is blank space before the URL, or after it"),
        ({"url": "ftp://me:${TOKEN}@x/mcp?key=${TOKEN}"}, "'ftp://x/mcp' is no http or https URL"),
        ({"url": "http://x", "headers": {"X-Key": "${TOKEN}\n"}}, "the header 'X-Key' cannot be sent: look for"),
        ({"url": "http://x", "headers": {"a b": "c"}}, "the header 'a b' cannot be sent: "),
        ({"url": "http://x", "type": "carrier pigeon"}, "there is no transport 'carrier pigeon'"),
        ({"url": "http://x", "type": "stdio"}, "with the transport stdio write 'command' instead of 'url'"),
        ({"command": "x", "type": "sse"}, "with the transport sse write 'url' instead of 'command'"),
        ({"command": "x", "env": {"PORT": 8080}}, "$.env.PORT: "),
        ({"command": 5}, "$.command: "),
        ("x", "$: "),
        (None, "$: "),
    ],
)
def test_what_is_wrong_is_a_reason(entry: Any, reason: str):
    """With the remedy or the place; the other servers of the file can be used."""
    unusable = one(entry)
    assert isinstance(unusable, Unusable)
    assert reason in unusable.reason
    others = defined({"mcpServers": {"wrong": entry, "right": {"url": "http://x/"}}})
    assert isinstance(others["right"], Definition)


@pytest.mark.parametrize("key", ["", "a/b", "..", "a\nb", "x" * 101])
def test_an_id_can_stand_in_a_path(key: str):
    """Blanks and letters of any alphabet may be in it."""
    assert isinstance(defined({"mcpServers": {key: {"url": "http://x/"}}})[key], Unusable)
    assert isinstance(defined({"mcpServers": {"Größe 5": {"url": "http://x/"}}})["Größe 5"], Definition)


def test_an_entry_of_a_list_needs_an_id():
    """Without one it is named by its place."""
    found = defined([{"id": "a", "url": "http://a/"}, {"url": "http://b/"}])
    assert found["#2"] == Unusable("#2", "it has no id: write one, such as 'id': 'time'")


def test_of_two_with_one_id_the_later_counts():
    """That is said."""
    found, warnings = define(
        [{"id": "a", "url": "http://one/"}, {"id": "a", "url": "http://two/"}], environ={}, directory=Path()
    )
    [definition] = found.values()
    assert isinstance(definition, Definition)
    assert definition.endpoint.url == "http://two/"
    assert warnings == ["two servers have the id 'a': the later one counts"]


def test_servers_and_tools_are_switched_off():
    """In both spellings."""
    off = one({"url": "http://x/", "enabled": False, "disabled_tools": ["a"], "tool_prefix": "p"})
    assert off == Definition(
        id="x",
        endpoint=Endpoint(url="http://x/"),
        enabled=False,
        disabled_tools=frozenset({"a"}),
        prefix="p",
    )
    other = one({"url": "http://x/", "disabled": True, "disabled_tools": None})
    assert isinstance(other, Definition)
    assert not other.enabled


def test_contexts_are_read_leniently():
    """Those of a tool count before its server's; what is no list of words has no meaning."""
    overrides = {"add": {"contexts": ["Tasks"]}, "odd": {"contexts": 5}, "none": {"contexts": []}, "x": 7}
    document = {"x": {"url": "http://x/", "contexts": ["Calendar", "calendar", 5, ""], "tool_overrides": overrides}}
    [definition] = defined({"servers": document}).values()
    assert isinstance(definition, Definition)
    assert definition.contexts == ("calendar",)
    assert definition.own_contexts == {"add": ("tasks",), "none": ()}
    [definition] = defined({"servers": {"x": {"url": "http://x/", "contexts": 3, "tool_overrides": []}}}).values()
    assert isinstance(definition, Definition)
    assert (definition.contexts, definition.own_contexts) == ((), {})
