"""The routes of `routes_plugin.py`."""

import pytest

from chatcore.testing.chat import frames


@pytest.fixture
def countdowns(load_example):
    return load_example("routes_plugin")


async def test_the_countdown_streams(make_chat, countdowns):
    """One event for each number, then who has asked."""
    chat = await make_chat(countdowns)
    response = await chat.client.post("/countdown", json={"start": 3, "pause": 0})
    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert [(frame.event, frame.data) for frame in frames(response.content)] == [
        ("tick", {"left": 3}),
        ("tick", {"left": 2}),
        ("tick", {"left": 1}),
        ("done", {"for": "local"}),
    ]


@pytest.mark.parametrize(
    ("body", "path"), [({}, "$.start"), ({"start": -1}, "$.start"), ({"start": 1, "pause": "1"}, "$.pause")]
)
async def test_a_wrong_body_is_answered_with_its_wrong_paths(make_chat, countdowns, body, path):
    """The body is checked before anything is counted."""
    chat = await make_chat(countdowns)
    response = await chat.client.post("/countdown", json=body)
    assert response.status_code == 422
    assert [problem["path"] for problem in response.json()["detail"]] == [path]


async def test_the_page_is_public_and_the_countdown_is_not(make_chat, countdowns):
    """A page elsewhere whose name resolves to this machine may read the page, and no more."""
    chat = await make_chat(countdowns)
    elsewhere = {"Host": "evil.example"}
    assert (await chat.client.get("/countdown", headers=elsewhere)).status_code == 200
    assert (await chat.client.post("/countdown", headers=elsewhere, json={"start": 1})).status_code == 403
