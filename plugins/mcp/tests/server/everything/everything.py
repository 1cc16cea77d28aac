"""A plugin for the conformance suite: at `/mcp`, mounted as chatcore's own server is, one with all that it asks for.

To be loaded without the plugin `mcp`: chatcore serve --disable mcp --plugins-dir plugins/mcp/tests/server/everything
"""

import asyncio
import base64
import json
from collections.abc import Iterable
from typing import Annotated, Any

from chatcore_mcp.server.endpoint import Endpoint
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    CallToolResult,
    ClientCapabilities,
    Completion,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    InputRequiredResult,
    ListRootsRequest,
    MissingRequiredClientCapabilityErrorData,
    SamplingCapability,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import BaseModel, Field
from quart import Blueprint

from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.protocols import Lifespan

PNG = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\2\0\0\0\x90wS\xde\0\0\0\x0cIDATx\x9cc\xf8\xcf\xc0\0\0\3\1\1\0"
    b"\xc9\xfe\x92\xef\0\0\0\0IEND\xaeB`\x82"
).decode()
WAV = base64.b64encode(b"RIFF&\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0@\x1f\0\0\x80>\0\0\2\0\x10\0data\2\0\0\0\0\0").decode()
PAUSE = 0.05

server = MCPServer("everything", version="1.0", log_level="WARNING")


class Everything(Plugin[NoSettings]):
    """All that the conformance suite asks for."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.endpoint = Endpoint(lambda: server._lowlevel_server)

    @hookimpl
    def register_routes(self) -> Iterable[Blueprint]:
        return [self.endpoint.blueprint()]

    @hookimpl
    def register_lifespans(self) -> Iterable[Lifespan]:
        return [Lifespan("endpoint", self.endpoint.session)]


# --- what tools give --------------------------------------------------------------------------------------------------


@server.tool()
def test_simple_text() -> str:
    """Gives text."""
    return "This is a simple text response for testing."


def image() -> ImageContent:
    return ImageContent(data=PNG, mime_type="image/png")


def embedded(uri: str, text: str, mime_type: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, text=text, mime_type=mime_type))


@server.tool(structured_output=False)
def test_image_content() -> ImageContent:
    """Gives an image."""
    return image()


@server.tool(structured_output=False)
def test_audio_content() -> AudioContent:
    """Gives sound."""
    return AudioContent(data=WAV, mime_type="audio/wav")


@server.tool(structured_output=False)
def test_embedded_resource() -> EmbeddedResource:
    """Gives a resource."""
    return embedded("test://embedded-resource", "This is an embedded resource content.")


@server.tool(structured_output=False)
def test_multiple_content_types() -> list[Any]:
    """Gives several things."""
    resource = embedded("test://mixed-content-resource", '{"test":"data","value":123}', "application/json")
    return [TextContent(text="Multiple content types test:"), image(), resource]


@server.tool()
def test_error_handling() -> str:
    """Fails."""
    raise ToolError("This tool intentionally returns an error for testing")


@server.tool()
async def test_tool_with_logging(context: Context[Any, Any]) -> str:
    """Logs while it runs."""
    for text in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await context.session.send_log_message("info", text, related_request_id=context.request_id)
        await asyncio.sleep(PAUSE)
    return "done"


server.tool("test_logging_tool", description="Logs while it runs.")(test_tool_with_logging)


@server.tool()
async def test_tool_with_progress(context: Context[Any, Any]) -> str:
    """Tells how far it is."""
    for progress in (0, 50, 100):
        await context.report_progress(progress, 100)
        await asyncio.sleep(PAUSE)
    return "done"


@server.tool()
def test_header(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Has an argument that stands in a header, too."""
    return region


@server.tool()
def json_schema_2020_12_tool() -> str:
    """Has a schema with more than most."""
    return "done"


phone, email = {"required": ["phone"]}, {"required": ["email"]}
server._tool_manager.get_tool("json_schema_2020_12_tool").parameters = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [phone, email]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": phone,
    "else": email,
    "additionalProperties": False,
}


# --- what it asks its client, in the revisions with sessions ----------------------------------------------------------


@server.tool()
async def test_sampling(prompt: str, context: Context[Any, Any]) -> str:
    """Asks the client's model."""
    message = SamplingMessage(role="user", content=TextContent(text=prompt))
    answer = await context.session.create_message([message], max_tokens=100, related_request_id=context.request_id)
    return f"LLM response: {getattr(answer.content, 'text', '')}"


async def elicited(context: Context[Any, Any], message: str, properties: dict[str, Any]) -> ElicitResult:
    schema = {"type": "object", "properties": properties, "required": list(properties)[:2]}
    return await context.session.elicit_form(message, schema, related_request_id=context.request_id)


@server.tool()
async def test_elicitation(message: str, context: Context[Any, Any]) -> str:
    """Asks the user."""
    text = {"type": "string", "description": "User's response"}
    answer = await elicited(context, message, {"username": text, "email": text})
    return f"User response: action={answer.action}, content={json.dumps(answer.content)}"


@server.tool()
async def test_elicitation_sep1034_defaults(context: Context[Any, Any]) -> str:
    """Asks the user, with defaults."""
    properties = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    answer = await elicited(context, "Please check", properties)
    return f"Elicitation completed: action={answer.action}, content={json.dumps(answer.content)}"


@server.tool()
async def test_elicitation_sep1330_enums(context: Context[Any, Any]) -> str:
    """Asks the user to choose."""
    options = ["option1", "option2", "option3"]
    titled = [{"const": f"value{number}", "title": f"Option {number}"} for number in (1, 2, 3)]
    properties = {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    answer = await elicited(context, "Please choose", properties)
    return f"Elicitation completed: action={answer.action}, content={json.dumps(answer.content)}"


# --- what it asks its client, in the revision without -----------------------------------------------------------------


def form(message: str, **properties: str) -> ElicitRequest:
    schema = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": list(properties),
    }
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def question(text: str) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=TextContent(text=text))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=100))


def asking(state: str | None = None, **requests: Any) -> InputRequiredResult:
    return InputRequiredResult(input_requests=requests, request_state=state)


def answered(context: Context[Any, Any], name: str) -> Any:
    """What the client has answered, if it is of use."""
    answer = (context.input_responses or {}).get(name)
    if isinstance(answer, ElicitResult):
        return answer.content if answer.action == "accept" and answer.content else None
    return answer


def told(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=text)])


@server.tool()
def test_input_required_result_elicitation(context: Context[Any, Any]) -> CallToolResult | InputRequiredResult:
    """Needs a name."""
    answer = answered(context, "user_name")
    if not answer:
        return asking(user_name=form("What is your name?", name="string"))
    return told(f"Hello, {answer['name']}!")


server.tool("test_streaming_elicitation", description="Needs a name.")(test_input_required_result_elicitation)


@server.tool()
def test_input_required_result_sampling(context: Context[Any, Any]) -> CallToolResult | InputRequiredResult:
    """Needs a model."""
    answer = answered(context, "capital_question")
    if answer is None:
        return asking(capital_question=question("What is the capital of France?"))
    return told(answer.content.text)


@server.tool()
def test_input_required_result_list_roots(context: Context[Any, Any]) -> CallToolResult | InputRequiredResult:
    """Needs the roots."""
    answer = answered(context, "client_roots")
    if answer is None:
        return asking(client_roots=ListRootsRequest())
    return told(", ".join(str(root.uri) for root in answer.roots))


@server.tool()
def test_input_required_result_request_state(context: Context[Any, Any]) -> CallToolResult | InputRequiredResult:
    """Needs a word, and what it knew before."""
    if not answered(context, "confirm"):
        return asking("known", confirm=form("Please confirm", ok="boolean"))
    return told("state-ok" if context.request_state == "known" else "another state")


server.tool("test_input_required_result_tampered_state", description="Needs what it knew before, unchanged.")(
    test_input_required_result_request_state
)


@server.tool()
def test_input_required_result_multiple_inputs(context: Context[Any, Any]) -> CallToolResult | InputRequiredResult:
    """Needs several things."""
    if not all(answered(context, name) for name in ("user_name", "greeting", "client_roots")):
        return asking(
            "several",
            user_name=form("What is your name?", name="string"),
            greeting=question("Generate a greeting"),
            client_roots=ListRootsRequest(),
        )
    return told("thanks")


@server.tool()
def test_input_required_result_multi_round(context: Context[Any, Any]) -> CallToolResult | InputRequiredResult:
    """Needs one thing after the other."""
    if answered(context, "step2"):
        return told("thanks")
    if answered(context, "step1"):
        return asking("second", step2=form("Step 2: What is your favorite color?", color="string"))
    return asking("first", step1=form("Step 1: What is your name?", name="string"))


@server.tool()
def test_input_required_result_capabilities(context: Context[Any, Any]) -> CallToolResult | InputRequiredResult:
    """Needs what the client can give."""
    capabilities = context.client_capabilities or ClientCapabilities()
    requests = {
        **({"name": form("What is your name?", name="string")} if capabilities.elicitation else {}),
        **({"greeting": question("Generate a greeting")} if capabilities.sampling else {}),
    }
    return asking(**requests) if requests and not context.input_responses else told("thanks")


@server.tool()
def test_missing_capability(context: Context[Any, Any]) -> str:
    """Needs a client with a model."""
    capabilities = context.client_capabilities
    if capabilities is None or capabilities.sampling is None:
        needed = ClientCapabilities(sampling=SamplingCapability())
        data = MissingRequiredClientCapabilityErrorData(required_capabilities=needed)
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            "sampling is needed",
            data.model_dump(by_alias=True, mode="json", exclude_none=True),
        )
    return "done"


@server.tool()
async def test_trigger_tool_change(context: Context[Any, Any]) -> str:
    """Changes the tools."""
    await context.notify_tools_changed()
    return "done"


@server.tool()
async def test_trigger_prompt_change(context: Context[Any, Any]) -> str:
    """Changes the prompts."""
    await context.notify_prompts_changed()
    return "done"


# --- resources --------------------------------------------------------------------------------------------------------


@server.resource("test://static-text", description="Text.", mime_type="text/plain")
def static_text() -> str:
    return "This is the content of the static text resource."


@server.resource("test://static-binary", description="An image.", mime_type="image/png")
def static_binary() -> bytes:
    return base64.b64decode(PNG)


@server.resource("test://watched-resource", description="One to subscribe to.", mime_type="text/plain")
def watched() -> str:
    return "Watched."


@server.resource("test://template/{id}/data", description="One for each id.", mime_type="application/json")
def template(id: str) -> str:  # noqa: A002  the name in the URI
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


async def accept(context: Any, params: BaseModel) -> EmptyResult:
    return EmptyResult()


server._lowlevel_server.add_request_handler("resources/subscribe", SubscribeRequestParams, accept)
server._lowlevel_server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, accept)
server._lowlevel_server.add_request_handler("logging/setLevel", SetLevelRequestParams, accept)


# --- prompts ----------------------------------------------------------------------------------------------------------


@server.prompt(description="A prompt.")
def test_simple_prompt() -> str:
    return "This is a simple prompt for testing."


@server.prompt(description="A prompt with arguments.")
def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@server.prompt(description="A prompt with a resource.")
def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803  the suite's name
    resource = embedded(resourceUri, "Embedded resource content for testing.")
    return [UserMessage(resource), UserMessage("Please process the embedded resource above.")]


@server.prompt(description="A prompt with an image.")
def test_prompt_with_image() -> list[UserMessage]:
    return [UserMessage(image()), UserMessage("Please analyze the image above.")]


@server.prompt(description="A prompt that needs to know something.")
def test_input_required_result_prompt(context: Context[Any, Any]) -> Any:
    answer = answered(context, "user_context")
    if not answer:
        return asking(user_context=form("What context should the prompt use?", context="string"))
    return f"Use {answer['context']}."


@server.completion()
async def complete(reference: Any, argument: Any, context: Any) -> Completion:
    return Completion(values=[word for word in ("paris", "park", "party") if word.startswith(argument.value)])
