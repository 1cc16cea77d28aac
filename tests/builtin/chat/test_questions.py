"""Questions of running tools over HTTP: who is asked, how it is answered, and clients that know nothing of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.protocols import Authenticator, Credentials
from chatcore.testing.chat import Chat, Frame, frames
from chatcore.testing.scripted import ScriptedProvider, call, text
from chatcore.tools import Invocation, Question, QuestionAnswer, Tool
from chatcore.types import Principal

MakeChat = Callable[..., Awaitable[Chat]]
ASK = {"Chatcore-Approvals": "ask"}
FORM = {
    "type": "object",
    "properties": {
        "date": {"type": "string", "format": "date"},
        "seats": {"type": "integer", "minimum": 1, "default": 2},
    },
    "required": ["date"],
}
ANSWERS: list[QuestionAnswer] = []
ENDED: list[str] = []


class Booking(Plugin[NoSettings]):
    """Books tables."""

    @hookimpl
    def register_tools(self) -> list[Tool]:
        ANSWERS.clear()
        ENDED.clear()
        return [Tool.of(self.book, timeout=0.3), Tool.of(self.visit)]

    async def book(self, invocation: Invocation) -> str:
        """Books a table."""
        try:
            answer = await invocation.ask(Question(message="When?", form=FORM))
        finally:
            ENDED.append("book")
        ANSWERS.append(answer)
        return f"{answer.action} {dict(answer.content)} {answer.reason}"

    async def visit(self, invocation: Invocation, url: str) -> str:
        """Has a page opened."""
        answer = await invocation.ask(Question(message="Sign in there.", url=url, asker="the bank"))
        return answer.action


class Doorman(Plugin[NoSettings]):
    """Believes what a header says."""

    @hookimpl
    def register_auth(self) -> list[Authenticator]:
        return [self]  # type: ignore[list-item]

    name = "doorman"

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        name = credentials.headers.get("x-name")
        return Principal(name) if name else None


def booking() -> ScriptedProvider:
    return ScriptedProvider([call("book")], [text("Done.")])


class Client:
    """A client that can show questions: a turn under way, whose frames are read as they come."""

    def __init__(self, chat: Chat, **headers: str) -> None:
        self.chat = chat
        self.headers = {**ASK, **headers}
        self.run_id = ""
        self.read = b""
        self._asked = asyncio.Event()
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> tuple[Frame, ...]:
        body = {"messages": [{"role": "user", "content": "Book."}], "session_id": "s"}
        path = "/api/chat/stream"
        async with self.chat.client.stream("POST", path, json=body, headers=self.headers) as response:
            assert response.status_code == 200, await response.aread()
            self.run_id = response.headers["chatcore-run-id"]
            async for data in response.aiter_bytes():
                self.read += data
                if b"event: question\n" in self.read:
                    self._asked.set()
        return frames(self.read)

    async def asked(self) -> dict[str, Any]:
        await asyncio.wait_for(self._asked.wait(), 10)
        [asked] = [frame.data for frame in frames(self.read) if frame.event == "question"]
        return dict(asked)

    async def answer(self, asked: dict[str, Any], action: str = "accept", **fields: Any) -> httpx.Response:
        path = f"/api/chat/runs/{self.run_id}/questions/{asked['question_id']}"
        headers = {**self.headers, **fields.pop("headers", {})}
        return await self.chat.client.post(
            path, json={"digest": asked["digest"], "action": action, **fields}, headers=headers
        )

    async def ended(self) -> tuple[list[str], list[str]]:
        """What the tools gave, and how the questions were closed."""
        got = await asyncio.wait_for(self.task, 10)
        results = [frame.data["result"] for frame in got if frame.event == "tool" and "result" in frame.data]
        return results, [frame.data["outcome"] for frame in got if frame.event == "question_closed"]


# --- answering --------------------------------------------------------------------------------------------------------


async def test_a_tool_goes_on_with_the_answer(make_chat: MakeChat) -> None:
    """The stream tells the question; the run lists it; the tool gets what was filled in, with the defaults, even after
    its own time limit, which does not run meanwhile."""
    chat = await make_chat(Booking, provider=booking())
    client = Client(chat)
    asked = await client.asked()
    assert (asked["asker"], asked["message"], asked["form"], asked["url"]) == ("book", "When?", FORM, None)
    assert asked["call_id"] == "call_book"
    run = (await chat.client.get(f"/api/chat/runs/{client.run_id}")).json()
    assert run["state"] == "running"
    assert run["questions"] == (await chat.client.get("/api/chat/questions")).json()["questions"]
    [listed] = run["questions"]
    assert listed == {**asked, "run_id": client.run_id, "session_id": "s", "expires_at": listed["expires_at"]}
    loop = asyncio.get_running_loop()
    late = loop.create_future()
    loop.call_later(0.4, late.set_result, None)  # the tool's own limit is 0.3 s
    await late
    answered = await client.answer(asked, content={"date": "2026-12-24"})
    assert (answered.status_code, answered.json()["action"]) == (200, "accept")
    assert await client.ended() == (["accept {'date': '2026-12-24', 'seats': 2} "], ["accept"])
    assert (await chat.client.get("/api/chat/questions")).json() == {"questions": []}


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a_tool_learns_that_somebody_does_not_want_to(make_chat: MakeChat, action: str) -> None:
    """What was filled in by then is not for it."""
    chat = await make_chat(Booking, provider=booking())
    client = Client(chat)
    assert (await client.answer(await client.asked(), action, content={"date": "2026-12-24"})).status_code == 200
    assert await client.ended() == ([f"{action} {{}} "], [action])


async def test_a_question_is_answered_once_by_its_owner_as_it_was_shown(make_chat: MakeChat) -> None:
    """409 for another digest and for the second time, 404 for a stranger and for what is not there."""
    chat = await make_chat(Booking, Doorman, provider=booking())
    client = Client(chat, **{"X-Name": "ann"})
    asked, content = await client.asked(), {"date": "2026-12-24"}
    bob = {"X-Name": "bob"}
    assert (await client.answer({**asked, "digest": "0" * 64}, content=content)).status_code == 409
    assert (await client.answer(asked, content=content, headers=bob)).status_code == 404
    assert (await client.answer({**asked, "question_id": "other"}, content=content)).status_code == 404
    assert (await chat.client.get("/api/chat/questions", headers=bob)).json() == {"questions": []}
    assert (await client.answer(asked, content=content)).status_code == 200
    assert (await client.answer(asked, "decline")).status_code == 409
    assert await client.ended() == (["accept {'date': '2026-12-24', 'seats': 2} "], ["accept"])


@pytest.mark.parametrize(
    ("content", "problem"),
    [({}, "is missing"), ({"date": "soon"}, "must be of the form date")],
)
async def test_what_the_form_does_not_ask_for_is_refused(make_chat: MakeChat, content: Any, problem: str) -> None:
    """422 with the field; the question goes on waiting."""
    chat = await make_chat(Booking, provider=booking())
    client = Client(chat)
    asked = await client.asked()
    refused = await client.answer(asked, content=content)
    assert refused.status_code == 422
    assert [(one["path"], one["msg"]) for one in refused.json()["detail"]] == [("$.content.date", problem)]
    assert (await client.answer(asked, content={"date": "2026-12-24"})).status_code == 200
    await client.task


async def test_a_page_to_open_is_shown_with_its_address(make_chat: MakeChat) -> None:
    """There is nothing to fill in."""
    provider = ScriptedProvider([call("visit", url="https://bank.example/x")], [text("ok")])
    chat = await make_chat(Booking, provider=provider)
    client = Client(chat)
    asked = await client.asked()
    assert (asked["asker"], asked["url"]) == ("the bank", "https://bank.example/x")
    assert asked["form"] == {"type": "object", "properties": {}}
    await client.answer(asked)
    assert await client.ended() == (["accept"], ["accept"])


@pytest.mark.parametrize("url", ["javascript:alert(1)", "file:///etc/passwd", "https://a b"])
async def test_an_address_of_another_kind_is_not_shown(make_chat: MakeChat, url: str) -> None:
    """A person is not led anywhere but to the web."""
    chat = await make_chat(Booking, provider=ScriptedProvider([call("visit", url=url)], [text("ok")]))
    assert await Client(chat).ended() == (["a question can only have a page of the web to open"], [])


# --- nobody answers ---------------------------------------------------------------------------------------------------


async def test_a_client_that_knows_nothing_of_questions_gets_a_notice(make_chat: MakeChat) -> None:
    """The question is declined at once, and the tool knows why."""
    chat = await make_chat(Booking, provider=booking())
    reply = await chat.say("Book.")
    assert reply.results == ["decline {} the user's program cannot show questions"]
    notices = [frame.data["message"] for frame in reply.named("tool") if frame.data["status"] == "notice"]
    assert notices == ["book wanted to ask you something, which this program cannot show: When?"]
    assert reply.named("question") == []


async def test_a_question_expires(make_chat: MakeChat) -> None:
    """The tool goes on without an answer, and a late one is refused."""
    chat = await make_chat(Booking, provider=booking(), config={"approval_timeout": 0.05})
    client = Client(chat)
    asked = await client.asked()
    assert await client.ended() == (["cancel {} nobody has answered in time"], ["expired"])
    assert (await client.answer(asked, content={"date": "2026-12-24"})).status_code == 409


async def test_a_stopped_turn_ends_its_questions(make_chat: MakeChat) -> None:
    """The call is cancelled, which is told, nothing is listed any more, and an answer is refused."""
    chat = await make_chat(Booking, provider=booking())
    client = Client(chat)
    asked = await client.asked()
    await chat.client.post(f"/api/chat/runs/{client.run_id}/stop")
    results, closed = await client.ended()
    assert (["stopped before it had answered" in result for result in results], closed) == ([True], ["cancel"])
    assert ENDED == ["book"]
    assert (await chat.client.get("/api/chat/questions")).json() == {"questions": []}
    assert (await client.answer(asked, content={"date": "2026-12-24"})).status_code == 409


async def test_a_page_that_was_reloaded_can_answer(make_chat: MakeChat) -> None:
    """Leaving was no wish to stop; the log tells the question again."""
    chat = await make_chat(Booking, provider=booking(), config={"disconnect_grace": 0.01})
    client = Client(chat)
    asked = await client.asked()
    client.task.cancel()
    run = chat.app.extensions["chatcore"].runs._held.live[client.run_id]
    while run._readers:
        await asyncio.sleep(0)
    again = asyncio.create_task(chat.client.get(f"/api/chat/runs/{client.run_id}/events"))
    [listed] = (await chat.client.get("/api/chat/questions")).json()["questions"]
    assert (await client.answer(listed, content={"date": "2026-12-24"})).status_code == 200
    got = frames((await again).content)
    assert [frame.data["question_id"] for frame in got if frame.event == "question"] == [asked["question_id"]]
    assert [frame.data["outcome"] for frame in got if frame.event == "question_closed"] == ["accept"]


@pytest.mark.parametrize("body", [{}, {"digest": "x"}, {"digest": "x", "action": "perhaps"}, []])
async def test_an_answer_of_the_wrong_shape_is_refused(make_chat: MakeChat, body: Any) -> None:
    """422, before anything is looked up."""
    chat = await make_chat()
    assert (await chat.client.post("/api/chat/runs/r/questions/q", json=body)).status_code == 422
