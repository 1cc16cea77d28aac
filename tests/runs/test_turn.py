"""What a turn does: the loop of model and tools, and what it leaves in the database."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from chatcore.attachments import Attachments
from chatcore.builtin.disk import DiskFiles
from chatcore.database import Begun, Conversations, Database, NewMessage, NewRun
from chatcore.errors import ProviderRefused, ProviderUnavailable, StreamBroken, ToolFailed
from chatcore.runs.approvals import Approvals
from chatcore.runs.paused import Tally
from chatcore.runs.run import Run
from chatcore.runs.stop import Stop
from chatcore.runs.toolcalls import UNKNOWN_OUTCOME, without_frame
from chatcore.runs.turn import LONGEST_BREATH, Resumed, run_turn
from chatcore.testing.scripted import ScriptedProvider, call, text, think
from chatcore.tools import Tool, ToolCall, ToolResult
from chatcore.types import (
    LOCAL,
    Attachment,
    Event,
    Failed,
    Finish,
    Limits,
    Message,
    MessageStored,
    Notice,
    ReasoningDelta,
    RunEnded,
    StoredMessage,
    TextDelta,
    ToolFinished,
    ToolStarted,
    Turn,
    Usage,
)


@attrs.define
class Stage:
    """A conversation with one question, ready to be answered."""

    conversations: Conversations
    begun: Begun
    turn: Turn
    stop: Stop
    approvals: Approvals

    async def play(
        self,
        provider: ScriptedProvider,
        resumed: Resumed | None = None,
        meanwhile: Callable[[Sequence[Event]], None] = lambda _: None,
        begun: "asyncio.Future[Begun] | None" = None,
    ) -> list[Event]:
        """Answers the turn. Gives what was told; `meanwhile` is called with it as it comes."""
        told: list[Event] = []

        def tell(events: Sequence[Event]) -> None:
            told.extend(events)
            meanwhile(events)

        run = Run(self.turn, self.approvals, strict=False, grace=None)
        run.stop, run.begun = self.stop, begun or asyncio.get_running_loop().create_future()
        if begun is None:
            run.begun.set_result(self.begun)
        attachments = Attachments.of(self.conversations.database, lambda: DiskFiles(Path("unused")), ())
        await run_turn(run, provider, self.conversations, attachments, tell, resumed)
        return told

    async def stored(self) -> list[StoredMessage]:
        return list(await self.conversations.path(LOCAL, self.turn.conversation_id))


async def lookup(word: str) -> str:
    """Looks a word up."""
    return f"{word} means much"


async def broken() -> str:
    """Fails."""
    raise ToolFailed("the shelf is empty")


async def crashing() -> str:
    """Crashes."""
    return str(1 / 0)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(str(tmp_path / "chat.db"))
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def stage(database: Database) -> Stage:
    conversations = Conversations(database)
    question = Message(role="user", content="What does it mean?")
    run = NewRun(
        id="run1",
        client_id="cli",
        format="chat",
        model="m",
        worker="w",
        lease_until=datetime.now(UTC) + timedelta(minutes=1),
    )
    begun = await conversations.begin(LOCAL, conversation_id="c1", messages=[NewMessage(message=question)], run=run)
    tools = {tool.name: tool for tool in map(Tool.of, (lookup, broken, crashing))}
    turn = Turn(
        id="run1",
        principal=LOCAL,
        conversation_id="c1",
        model="m",
        provider="scripted",
        history=(question,),
        tools=tools,
    )
    return Stage(conversations, begun, turn, Stop(), Approvals(database))


def of(kind: type[Any], events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def ended(events: list[Event]) -> tuple[str, str]:
    assert isinstance(events[-1], RunEnded)
    assert len(of(RunEnded, events)) == 1
    return events[-1].state, events[-1].reason


async def test_an_answer_is_stored_before_its_end_is_told(stage: Stage) -> None:
    """The text comes in pieces; then the message is stored; then the run ends as completed."""
    events = await stage.play(ScriptedProvider([think("Hm."), text("It ", "means "), text("much.")]))
    assert [event.text for event in of(TextDelta, events)] == ["It ", "means ", "much."]
    [told] = of(MessageStored, events)
    question, answer = await stage.stored()
    assert told.message == answer
    assert answer.message.content == "It means much."
    assert answer.message.reasoning == "Hm."
    assert (answer.state, answer.finish_reason, answer.parent_id) == ("complete", "stop", question.id)
    assert ended(events) == ("completed", "stop")


async def test_tools_are_run_together_and_the_model_is_asked_again_with_their_answers(stage: Stage) -> None:
    """Two calls of one answer run at once; the next request has both answers, in the order of the calls."""
    provider = ScriptedProvider(
        [[*call("lookup", id="a", word="one"), *call("lookup", id="b", word="two")]], [text("Both mean much.")]
    )
    events = await stage.play(provider)
    assert [event.call.id for event in of(ToolStarted, events)] == ["a", "b"]
    assert {event.call.id: event.result.text for event in of(ToolFinished, events)} == {
        "a": "one means much",
        "b": "two means much",
    }
    asked = provider.requests[1].messages[1:]
    roles = [(message.role, message.tool_call_id, without_frame(message.text)) for message in asked]
    assert roles == [("assistant", None, ""), ("tool", "a", "one means much"), ("tool", "b", "two means much")]
    assert [stored.message.role for stored in await stage.stored()] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]
    assert ended(events) == ("completed", "stop")


async def test_while_tools_run_the_stored_history_is_already_complete(stage: Stage) -> None:
    """What a crash would leave behind is a valid history: every call has an answer, which says that it is unknown."""
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        """Waits."""
        entered.set()
        await leave.wait()
        return "done"

    stage.turn = attrs.evolve(stage.turn, tools={"slow": Tool.of(slow)})
    playing = asyncio.create_task(stage.play(ScriptedProvider([call("slow")])))
    await entered.wait()
    *_, place = await stage.stored()
    assert (place.message.role, place.state, place.message.text) == ("tool", "pending", UNKNOWN_OUTCOME)
    leave.set()
    await playing
    place = (await stage.stored())[2]
    assert (place.state, place.message.text, place.is_error) == ("complete", "done", False)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("broken", {}, "the shelf is empty"),
        ("crashing", {}, "ZeroDivisionError"),
        ("unheard_of", {}, "There is no tool 'unheard_of'. There are: lookup, broken, crashing."),
        ("lookup", {}, "wrong arguments: $.word"),
        ("lookup", {"word": 5}, "wrong arguments: $.word"),
    ],
)
async def test_whatever_goes_wrong_with_a_tool_is_an_answer(
    stage: Stage, name: str, arguments: dict[str, Any], says: str
) -> None:
    """The model is told what was wrong, and the turn goes on."""
    events = await stage.play(ScriptedProvider([call(name, **arguments)]))
    [finished] = of(ToolFinished, events)
    assert finished.result.is_error
    assert says in finished.result.text
    [notice] = of(Notice, events)
    assert (notice.kind, notice.data["reason"], notice.data["attempt"]) == ("tool_followup_required", "tool_error", 1)
    assert ended(events) == ("completed", "stop")


@pytest.mark.parametrize("arguments", ["{", "[1]", "5", '{"word": NaN}', "[" * 10_000])
async def test_arguments_that_are_not_an_object_are_answered(stage: Stage, arguments: str) -> None:
    """Whatever text the model writes for arguments, the tool is not run with it and the model learns why."""
    from chatcore.types import ToolCallDelta, ToolCallStarted

    events = await stage.play(ScriptedProvider([[ToolCallStarted(0, "a", "lookup"), ToolCallDelta(0, arguments)]]))
    [finished] = of(ToolFinished, events)
    assert "not a JSON object" in finished.result.text


async def test_a_tool_that_takes_too_long_is_ended(stage: Stage) -> None:
    """After its time limit the tool is cancelled and the model is told."""
    cancelled = asyncio.Event()

    async def endless() -> str:
        """Never ends."""
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return ""

    stage.turn = attrs.evolve(stage.turn, tools={"endless": Tool.of(endless, timeout=0.01)})
    events = await stage.play(ScriptedProvider([call("endless")]))
    assert cancelled.is_set()
    assert of(ToolFinished, events)[0].result.text == "endless did not answer within 0.01 seconds."


async def test_a_tool_that_gives_up_by_itself_has_not_taken_too_long(stage: Stage) -> None:
    """What it waited for did not come in its own time; the limit was not reached."""

    async def impatient() -> str:
        """Gives up."""
        raise TimeoutError("nobody answers at port 9")

    stage.turn = attrs.evolve(stage.turn, tools={"impatient": Tool.of(impatient)})
    events = await stage.play(ScriptedProvider([call("impatient")]))
    assert of(ToolFinished, events)[0].result.text == "impatient failed: TimeoutError: nobody answers at port 9"


async def test_a_long_output_is_cut(stage: Stage) -> None:
    """The model is given as much as the limit allows, and told that there was more."""
    stage.turn = attrs.evolve(stage.turn, limits=Limits(tool_output=9))
    events = await stage.play(ScriptedProvider([call("lookup", word="x" * 50)]))
    result = of(ToolFinished, events)[0].result.text
    assert result == f"{'x' * 9}\n[cut: the tool gave 61 characters, the limit is 9]"


async def test_a_stop_keeps_what_was_said(stage: Stage) -> None:
    """The provider is closed, the text is stored as partial, the run ends as stopped."""
    provider = ScriptedProvider([text("Once upon"), asyncio.Event()])
    events = await stage.play(provider, meanwhile=lambda _: stage.stop.request("user"))
    assert provider.closed.is_set()
    answer = (await stage.stored())[-1]
    assert (answer.message.text, answer.state) == ("Once upon", "partial")
    assert ended(events) == ("stopped", "user")


async def test_a_stop_during_tools_answers_every_call(stage: Stage) -> None:
    """A tool that had answered keeps its answer; one that had not is cancelled and says so."""
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def endless() -> str:
        """Never ends."""
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return ""

    stage.turn = attrs.evolve(stage.turn, tools={**stage.turn.tools, "endless": Tool.of(endless)})
    provider = ScriptedProvider([[*call("lookup", id="a", word="x"), *call("endless", id="b")]])

    def meanwhile(events: Sequence[Event]) -> None:
        if of(ToolFinished, list(events)):
            assert entered.is_set()
            stage.stop.request("user")

    events = await stage.play(provider, meanwhile=meanwhile)
    assert cancelled.is_set()
    answers = {stored.message.tool_call_id: stored for stored in (await stage.stored())[2:]}
    assert answers["a"].message.text == "x means much"
    assert "stopped before it had answered" in answers["b"].message.text
    assert all(stored.state == "complete" for stored in answers.values())
    assert len(provider.requests) == 1
    assert ended(events) == ("stopped", "user")


async def test_an_answer_without_a_finish_reason_is_incomplete(stage: Stage) -> None:
    """A stream that just ends was cut off: its text is kept as partial, and is never called completed."""
    events = await stage.play(ScriptedProvider([text("Once")], finish=False))
    assert (await stage.stored())[-1].state == "partial"
    assert ended(events) == ("incomplete", "no_finish_reason")


async def test_an_answer_that_breaks_is_kept_and_told(stage: Stage) -> None:
    """An error inside the stream: the text before it is stored, the error is told, the run is incomplete."""
    error = StreamBroken("provider disconnected", upstream_status=502, kind="provider_unavailable")
    events = await stage.play(ScriptedProvider([text("Once"), error]))
    assert (await stage.stored())[-1].message.text == "Once"
    [failed] = of(Failed, events)
    assert (failed.message, failed.code, failed.status) == ("provider disconnected", "provider_unavailable", 502)
    assert ended(events)[0] == "incomplete"


async def test_a_broken_answer_with_tool_calls_leaves_a_valid_history(stage: Stage) -> None:
    """The calls of an answer that broke off are not run, and each has an answer that says so."""
    events = await stage.play(ScriptedProvider([call("lookup", word="x"), StreamBroken("gone")]))
    assert not of(ToolStarted, events)
    *_, assistant, answer = await stage.stored()
    assert [c.id for c in assistant.message.tool_calls] == [answer.message.tool_call_id]
    assert "not run" in answer.message.text


async def test_a_provider_that_is_down_stores_nothing(stage: Stage) -> None:
    """There is no empty answer in the history; the run has failed."""
    events = await stage.play(ScriptedProvider([ProviderUnavailable("no connection")]))
    assert [stored.message.role for stored in await stage.stored()] == ["user"]
    assert ended(events)[0] == "failed"


@pytest.mark.parametrize("reason", ["content_filter", "length", "stop"])
async def test_an_answer_without_a_word_is_stored_with_its_reason(stage: Stage, reason: str) -> None:
    """Readers are told of it as of any other: why the model ended, what that cost, and which generation it was."""
    usage = {"prompt_tokens": 9, "completion_tokens": 0, "cost": 0.01}
    finish = Finish(reason, model="m", generation_id="gen-1")
    events = await stage.play(ScriptedProvider([[Usage(usage), finish]]))
    _, stored = await stage.stored()
    assert of(MessageStored, events) == [MessageStored(stored)]
    assert (stored.message.content, stored.state, stored.finish_reason) == ("", "complete", reason)
    assert (stored.usage, stored.generation_id) == (usage, "gen-1")
    assert ended(events) == ("completed", reason)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (404, "openrouter: No endpoints found that support tool use"),
        (400, "ollama: registry.ollama.ai/library/gemma3:4b does not support tools"),
        (400, 'vllm: "auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),
    ],
)
async def test_a_model_that_refuses_tools_is_asked_once_more_without(stage: Stage, status: int, said: str) -> None:
    """One notice, then an answer; the second request has neither tools nor tool parameters."""
    stage.turn = attrs.evolve(stage.turn, parameters={"parallel_tool_calls": True, "top_p": 1.0})
    provider = ScriptedProvider([ProviderRefused(said, upstream_status=status)], [text("Without.")])
    events = await stage.play(provider)
    assert [notice.kind for notice in of(Notice, events)] == ["tools_unsupported"]
    assert [len(request.tools) for request in provider.requests] == [3, 0]
    assert provider.requests[1].parameters == {"top_p": 1.0}
    assert ended(events) == ("completed", "stop")


async def test_another_refusal_is_not_taken_for_one_of_tools(stage: Stage) -> None:
    """Whatever is wrong with a tool, or with the history, is told."""
    refusal = ProviderRefused("Invalid 'tools[0].function.parameters'", upstream_status=400)
    provider = ScriptedProvider([refusal])
    assert ended(await stage.play(provider))[0] == "failed"
    assert len(provider.requests) == 1


async def test_a_model_that_refuses_tools_twice_ends_the_turn(stage: Stage) -> None:
    """The retry without tools happens at most once."""
    refusal = ProviderRefused("No endpoints found that support tool use", upstream_status=404)
    provider = ScriptedProvider([refusal], [refusal])
    events = await stage.play(provider)
    assert len(provider.requests) == 2
    assert ended(events)[0] == "failed"


async def test_a_required_tool_choice_is_not_dropped(stage: Stage) -> None:
    """Who insists on a tool gets the refusal, not an answer without it."""
    stage.turn = attrs.evolve(stage.turn, parameters={"tool_choice": "required"})
    provider = ScriptedProvider([ProviderRefused("No endpoints found that support tool use", upstream_status=404)])
    assert ended(await stage.play(provider))[0] == "failed"
    assert len(provider.requests) == 1


async def test_the_hop_limit_pauses_with_a_valid_history(stage: Stage) -> None:
    """After the last allowed call of the model its tools are not run; the next turn can go on."""
    stage.turn = attrs.evolve(stage.turn, limits=Limits(hops=2))
    provider = ScriptedProvider(*[[call("lookup", id=f"c{n}", word="x")] for n in range(5)])
    events = await stage.play(provider)
    assert len(provider.requests) == 2
    [notice] = of(Notice, events)
    assert (notice.kind, notice.data) == ("hop_limit", {"hop_count": 2, "limit": 2})
    path = await stage.stored()
    assert [stored.message.role for stored in path] == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert "not run" in path[-2].message.text
    assert (path[-1].message.text, path[-1].run_id, path[-1].state) == (notice.message, "run1", "complete")
    assert ended(events) == ("incomplete", "hop_limit")


async def test_too_many_failing_tools_in_a_row_pause_the_turn(stage: Stage) -> None:
    """A success in between starts the count again."""
    stage.turn = attrs.evolve(stage.turn, limits=Limits(tool_errors=3))
    script = ["broken", "broken", "lookup", "broken", "broken", "broken", "broken"]
    provider = ScriptedProvider(*[[call(name, id=f"c{n}", word=f"x{n}")] for n, name in enumerate(script)])
    events = await stage.play(provider)
    assert len(provider.requests) == 6
    assert ended(events) == ("incomplete", "tool_error_limit")


async def test_the_cost_limit_pauses_the_turn(stage: Stage) -> None:
    """What the provider says a call has cost is added up over the hops."""
    from chatcore.types import Finish, Usage

    stage.turn = attrs.evolve(stage.turn, limits=Limits(cost=0.03))
    scripts = [[call("lookup", id=f"c{n}", word="x"), [Usage({"cost": 0.02}), Finish("tool_calls")]] for n in range(5)]
    provider = ScriptedProvider(*scripts)
    events = await stage.play(provider)
    assert len(provider.requests) == 2
    assert ended(events) == ("incomplete", "cost_limit")


async def test_an_answer_without_end_is_ended(stage: Stage) -> None:
    """With more bytes than a turn may say: its provider's stream is closed, and what there is of it is stored."""
    stage.turn = attrs.evolve(stage.turn, limits=Limits(max_answer=10_000))
    provider = ScriptedProvider([text("x" * 1000)] * 1000)
    events = await stage.play(provider)
    assert provider.closed.is_set()
    [notice] = of(Notice, events)
    assert (notice.kind, notice.data) == ("answer_limit", {"limit": 10_000})
    assert ended(events) == ("incomplete", "answer_limit")
    [_, answer, pause] = await stage.stored()
    assert (answer.state, answer.message.text) == ("partial", "".join(event.text for event in of(TextDelta, events)))
    assert pause.message.text == notice.message
    assert 9_000 <= len(answer.message.text) <= 10_000 + 1000 * LONGEST_BREATH


@pytest.mark.parametrize(
    "said",
    [TextDelta("", b"x" * 900), Attachment({"data": "x" * 900}), ReasoningDelta("x" * 900), TextDelta("x" * 900)],
)
async def test_everything_that_a_model_says_counts(stage: Stage, said: Event) -> None:
    """Also the chunk that text came in, and what is no text. Events count more than their bytes."""
    stage.turn = attrs.evolve(stage.turn, limits=Limits(max_answer=2000))
    events = await stage.play(ScriptedProvider([[said]]))
    assert ended(events) == ("completed", "stop")
    events = await stage.play(ScriptedProvider([[said, said]]))
    assert ended(events) == ("incomplete", "answer_limit")


async def test_what_tools_say_counts(stage: Stage) -> None:
    """Over all hops: when it is too much the model is not asked again, and the next turn can go on."""
    stage.turn = attrs.evolve(stage.turn, limits=Limits(max_answer=10_000))
    provider = ScriptedProvider(*[[call("lookup", id=f"c{n}", word=f"{n}" + "x" * 1000)] for n in range(20)])
    events = await stage.play(provider)
    assert 2 <= len(provider.requests) < 5
    assert ended(events) == ("incomplete", "answer_limit")
    path = await stage.stored()
    hops = ["assistant", "tool"] * len(provider.requests)
    assert [stored.message.role for stored in path] == ["user", *hops, "assistant"]


async def test_tool_choice_none_offers_no_tools(stage: Stage) -> None:
    """The request says that no tool is to be used: the model is not shown any."""
    stage.turn = attrs.evolve(stage.turn, parameters={"tool_choice": "none"})
    provider = ScriptedProvider()
    await stage.play(provider)
    assert provider.requests[0].tools == ()


async def test_only_tools_of_the_snapshot_can_be_called(stage: Stage) -> None:
    """A tool that the turn was not given cannot be run by naming it."""
    stage.turn = attrs.evolve(stage.turn, tools={"broken": stage.turn.tools["broken"]})
    events = await stage.play(ScriptedProvider([call("lookup", word="x")]))
    assert "There is no tool 'lookup'" in of(ToolFinished, events)[0].result.text


async def test_images_of_tools_stand_before_the_next_answer(stage: Stage) -> None:
    """What a tool made that is not text is told before the model goes on, and kept with its answer."""
    from chatcore.tools import ToolResult

    part = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}

    async def draw() -> ToolResult:
        """Draws."""
        return ToolResult("drawn", parts=(part,))

    stage.turn = attrs.evolve(stage.turn, tools={"draw": Tool.of(draw)})
    events = await stage.play(ScriptedProvider([call("draw")], [text("Here.")]))
    kinds = [type(event).__name__ for event in events]
    assert kinds.index("ToolFinished") < kinds.index("Attachment") < kinds.index("TextDelta")
    assert of(Attachment, events)[0].part == part
    assert (await stage.stored())[-1].message.images == (part,)


async def test_a_stop_does_not_keep_a_turn_from_being_stored(stage: Stage) -> None:
    """Also where an image waits for that: the answer, as far as it came, has its place."""
    image = Attachment({"type": "image_url", "image_url": {"url": "data:image/png;base64,aVZCT1J3"}})
    stored: asyncio.Future[Begun] = asyncio.get_running_loop().create_future()
    provider = ScriptedProvider([text("Look:"), [image]])

    def meanwhile(events: Sequence[Event]) -> None:
        if of(TextDelta, list(events)):
            asyncio.get_running_loop().call_later(0.01, stage.stop.request, "user")
            asyncio.get_running_loop().call_later(0.02, stored.set_result, stage.begun)

    events = await stage.play(provider, meanwhile=meanwhile, begun=stored)
    assert ended(events) == ("stopped", "user")
    assert (await stage.stored())[-1].message.text == "Look:"


async def test_a_model_that_asks_for_the_same_again_and_again_is_paused(stage: Stage) -> None:
    """The third time in a row it is not done any more: a notice, and a history that the next turn can go on with."""
    provider = ScriptedProvider(*[[call("lookup", id=f"c{n}", word="x")] for n in range(5)])
    events = await stage.play(provider)
    assert len(provider.requests) == 3
    assert len(of(ToolFinished, events)) == 2
    [notice] = of(Notice, events)
    assert (notice.kind, notice.data) == ("repeated_call", {"tool": "lookup", "limit": 3})
    path = await stage.stored()
    assert [stored.message.role for stored in path[1:]] == [*["assistant", "tool"] * 3, "assistant"]
    assert "not run" in path[-2].message.text
    assert ended(events) == ("incomplete", "repeated_call")


async def test_a_model_may_ask_again_for_something_else(stage: Stage) -> None:
    """Other arguments are another call."""
    provider = ScriptedProvider(*[[call("lookup", id=f"c{n}", word=str(n % 2))] for n in range(6)])
    events = await stage.play(provider)
    assert len(of(ToolFinished, events)) == 6
    assert ended(events) == ("completed", "stop")


async def test_a_turn_that_waited_goes_on_where_it_was(stage: Stage) -> None:
    """What it had counted counts on, and the answer hangs on what was stored."""
    asked = NewMessage(message=Message(role="assistant", tool_calls=(ToolCall("a", "lookup", '{"word": "x"}'),)))
    place = NewMessage(message=Message(role="tool", tool_call_id="a", content="x means much"))
    stored = await stage.conversations.add_answer(LOCAL, "c1", stage.begun.path[-1].id, [asked, place])
    stage.turn = attrs.evolve(
        stage.turn, history=(*stage.turn.history, asked.message), limits=Limits(hops=3), can_approve=True
    )
    provider = ScriptedProvider([call("lookup", word="y")], [text("never asked")])
    resumed = Resumed(Tally(hops=2), stored)
    events = await stage.play(provider, resumed)
    assert [without_frame(message.text) for message in provider.requests[0].messages][1:] == ["", "x means much"]
    assert ended(events) == ("incomplete", "hop_limit")
    assert (await stage.stored())[3].parent_id == stored[-1].id


# --- what plugins have prepared ---------------------------------------------------------------------------------------


async def test_a_hidden_tool_is_told_of_when_a_result_reveals_it(stage: Stage) -> None:
    """From the next call of the model on. It may be called before: it is one of the turn's."""

    async def find() -> ToolResult:
        """Finds tools."""
        return ToolResult("lookup", reveals=("lookup", "unknown"))

    tools = {**stage.turn.tools, "find": Tool.of(find)}
    stage.turn = attrs.evolve(stage.turn, tools=tools, hidden=frozenset({"lookup", "broken", "gone"}))
    provider = ScriptedProvider([call("broken"), call("find")], [call("lookup", word="sea")], [text("ok")])
    events = await stage.play(provider)
    offered = [{tool.name for tool in request.tools} for request in provider.requests]
    assert offered == [{"crashing", "find"}, {"crashing", "find", "lookup"}, {"crashing", "find", "lookup"}]
    results = {event.call.name: event.result.text for event in of(ToolFinished, events)}
    assert results == {"broken": "the shelf is empty", "find": "lookup", "lookup": "sea means much"}


async def test_notices_are_told_before_the_model_is_asked(stage: Stage) -> None:
    """In their order."""
    notices = (Notice("one", "First."), Notice("two", "Second."))
    stage.turn = attrs.evolve(stage.turn, notices=notices)
    events = await stage.play(ScriptedProvider([text("ok")]))
    assert tuple(events[:2]) == notices
    assert ended(events) == ("completed", "stop")


async def test_a_turn_may_be_stopped_before_the_model_is_asked(stage: Stage) -> None:
    """Its notices say why; nothing is stored of an answer."""
    notice = Notice("no", "You did not want to.")
    stage.turn = attrs.evolve(stage.turn, notices=(notice,), stopped_for="denied")
    provider = ScriptedProvider([text("ok")])
    assert await stage.play(provider) == [notice, RunEnded("stopped", "denied")]
    assert provider.requests == []
    assert len(await stage.stored()) == 1
