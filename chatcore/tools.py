"""Tools: what a model may ask for, the asking, and the answer.

`Tool.of(function)` makes a tool from an ordinary typed coroutine function.
"""

import hashlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Any, Literal, Self, TypeAlias

import attrs

from chatcore import wire
from chatcore.errors import RequestError, ToolFailed

JsonObject: TypeAlias = Mapping[str, Any]
"""A JSON object, kept as it came. Never changed in place."""

Policy: TypeAlias = Literal["allow", "ask", "deny"]
"""What becomes of a tool's calls: they are run, or after a person has consented to each, or never."""


@attrs.frozen
class ToolCall:
    """A model's request for a tool, as it stands in the conversation.

    `arguments` is the text that the model wrote: JSON if the model did well. `mark` is what the provider that gave it
    noted, to be able to give it back; it is of no use to others.
    """

    id: str
    name: str
    arguments: str = ""
    mark: str = ""


@attrs.frozen(kw_only=True)
class Question:
    """What a tool asks a person while it runs: to fill in a form, or to open a page.

    `message` says what for. `form` is the JSON Schema of an object whose properties are texts, numbers, booleans,
    choices (`enum`, or `oneOf` with titles) or lists of choices, with their defaults; one without properties asks for
    no more than a yes. With `url` there is no form: what the page wants to know is not for chatcore to see. `asker` is
    who asks, where that is not the tool itself.
    """

    message: str
    form: JsonObject = attrs.field(factory=dict)
    url: str | None = None
    asker: str = ""


QuestionAction: TypeAlias = Literal["accept", "decline", "cancel"]


@attrs.frozen(kw_only=True)
class QuestionAnswer:
    """What a person says to a question: `accept` with what was filled in as `content`, `decline`, or `cancel`, which
    leaves it open. Where nobody was asked, or nobody has answered, `reason` says why."""

    action: QuestionAction
    content: JsonObject = attrs.field(factory=dict)
    reason: str = ""


async def _nobody(question: Question) -> QuestionAnswer:
    """Where there is no person to ask."""
    return QuestionAnswer(action="decline", reason="there is nobody here who could be asked")


def _unheard(message: str, done: float | None = None, of: float | None = None) -> None:
    """Where nobody follows a call."""


@attrs.frozen
class Invocation:
    """What a tool's `run` is given: the call, its parsed arguments, and for whom it runs.

    `progress(message, done, of)` tells the client how far the call is: what is being done, how much is, and of how
    much; the last two may be None. It may be called as often as one likes: not everything is told.

    `await ask(Question(message=…))` asks the person for whom it runs, and waits for the answer; the tool's time limit
    does not run meanwhile. Where nobody can be asked it is declined at once.
    """

    call: ToolCall
    arguments: JsonObject
    principal_id: str
    conversation_id: str
    run_id: str
    progress: Callable[[str, float | None, float | None], None] = attrs.field(default=_unheard, repr=False, eq=False)
    ask: Callable[[Question], Awaitable[QuestionAnswer]] = attrs.field(default=_nobody, repr=False, eq=False)


@attrs.frozen
class ToolResult:
    """What a tool answers.

    `text` is what the model reads. `parts` are content parts in the OpenAI form (images, files) for the client: they
    begin the answer that follows. A line `attachment_id: ID` in the text is taken out, and the image of the
    conversation that it names becomes one of the parts; one that names none stays, and so does all that a failed call
    says.
    `is_error` tells the model and the client that the call failed. `reveals` names tools that the turn hides: from now
    on the model is told of them.
    """

    text: str
    is_error: bool = False
    parts: tuple[JsonObject, ...] = ()
    reveals: tuple[str, ...] = ()


@attrs.frozen
class Tool:
    """A function that a model may call.

    `name` has at most 64 letters, digits, `_` or `-` (OpenRouter's rule, which the other APIs share).
    `parameters` is a JSON Schema of type object. `timeout` is in seconds; None takes the turn's limit.

    What it does to the world: `read_only`, it changes nothing; `destructive`, it may take away or overwrite something;
    `idempotent`, doing it twice is as doing it once; `open_world`, it reaches what is not the server's own. Where the
    configuration says nothing else, a call of a destructive tool needs a person's consent.

    `source` is the tool source that it comes from, which the registry notes, or the part of it that the source names
    (`SOURCE/PART`); None for a plugin's own tool. `contexts` are words for what it is about, such as `calendar`, for
    whoever chooses among many tools.
    """

    name: str = attrs.field(validator=attrs.validators.matches_re(r"[A-Za-z0-9_-]{1,64}"))
    description: str
    parameters: JsonObject
    run: Callable[[Invocation], Awaitable[ToolResult]] = attrs.field(repr=False, eq=False)
    timeout: float | None = None
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False
    source: str | None = attrs.field(default=None, eq=False)
    contexts: tuple[str, ...] = attrs.field(default=(), eq=False)

    @property
    def definition(self) -> JsonObject:
        """What the tool says of itself, as JSON: what its trust depends on."""
        hints = ("read_only", "destructive", "idempotent", "open_world")
        return {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            **{hint: True for hint in hints if getattr(self, hint)},
        }

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the definition: tools with the same one say the same of themselves."""
        return hashlib.sha256(wire.canonical(self.definition)).hexdigest()

    @classmethod
    def of(
        cls,
        function: Callable[..., Awaitable[object]],
        *,
        name: str | None = None,
        timeout: float | None = None,
        read_only: bool = False,
        destructive: bool = False,
        idempotent: bool = False,
        open_world: bool = False,
    ) -> Self:
        """A tool from a typed coroutine function.

        The name is the function's, the description its docstring up to `Args:`, the schema its type hints with the
        lines under `Args:` as descriptions. A parameter annotated `Invocation` is not shown to the model: it is
        given the invocation. The function may return text, a `ToolResult`, or anything that is JSON.

        Raises:
            TypeError: the function is not a coroutine function, or a parameter has no usable type hint.
        """
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"{function!r} is not a coroutine function: write 'async def'")
        signature = wire.signature_of(function, hidden=Invocation)
        return cls(
            name=name or function.__name__,
            description=signature.description,
            parameters=signature.schema,
            run=_runner(function, signature),
            timeout=timeout,
            read_only=read_only,
            destructive=destructive,
            idempotent=idempotent,
            open_world=open_world,
        )


def _runner(
    function: Callable[..., Awaitable[object]], signature: wire.Signature
) -> Callable[[Invocation], Awaitable[ToolResult]]:
    async def run(invocation: Invocation) -> ToolResult:
        try:
            arguments = signature.bind(invocation.arguments, invocation)
        except RequestError as error:
            raise ToolFailed(f"wrong arguments: {error}") from error
        answer = await function(**arguments)
        if isinstance(answer, ToolResult):
            return answer
        return ToolResult(answer if isinstance(answer, str) else wire.dumps(answer).decode())

    return run
