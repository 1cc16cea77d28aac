"""What a person is asked at the keyboard. Questions are no part of the output, which may go elsewhere."""

import click

from chatcore import forms, wire
from chatcore.console import printable
from chatcore.errors import RequestError
from chatcore.terminal.frames import Asked
from chatcore.tools import JsonObject, QuestionAction


def allowed(question: str) -> bool:
    """Whether somebody types yes."""
    try:
        return _means_yes(question)
    except EOFError:
        return False


def answer_of(asked: Asked) -> tuple[QuestionAction, JsonObject]:
    """Asks a question, until it is answered as it wants to be. Whoever ends the input leaves it open."""
    _say(f"{asked.asker} asks: {asked.message}")
    if asked.url is not None:
        _say(f"Open {asked.url}")
    elif asked.form["properties"]:
        _say("An empty line takes what stands in brackets, or leaves a field out. '!' says no, Ctrl-D leaves it open.")
    while True:
        action, content = _filled_in(asked.form["properties"])
        try:
            return action, forms.filled(asked.form, content) if action == "accept" else {}
        except RequestError as error:
            _say(error.message)


def _filled_in(fields: JsonObject) -> tuple[QuestionAction, JsonObject]:
    """What is typed, field by field; where there is none, whether somebody says yes."""
    content = {}
    try:
        if not fields:
            return ("accept" if _means_yes("Say yes? [y/N] ") else "decline"), {}
        for name, field in fields.items():
            text = _typed(_prompt(name, field))
            if text == "!":
                return "decline", {}
            if text:
                content[name] = _value(field, text)
    except EOFError:
        return "cancel", {}
    return "accept", content


def _prompt(name: str, field: forms.Field) -> str:
    """What stands before the cursor."""
    about = field.get("title", name) + (f" – {field['description']}" if "description" in field else "")
    among = forms.choices(field.get("items", field))
    options = [value if shown == value else f"{value} ({shown})" for value, shown in among]
    several = ", separated by commas" if field["type"] == "array" else ""
    values = f" ({' | '.join(options) or field['type']}{several})"
    default = f" [{wire.dumps(field['default']).decode()}]" if "default" in field else ""
    return f"{about}{values}{default}: "


def _value(field: forms.Field, text: str) -> object:
    """What somebody has typed for a field; the text as it is where it cannot be that, for the server to refuse."""
    match field["type"]:
        case "array":
            return [part.strip() for part in text.split(",")]
        case "boolean":
            return {"y": True, "yes": True, "true": True, "n": False, "no": False, "false": False}.get(
                text.lower(), text
            )
        case "integer" | "number":
            try:
                return wire.loads(text.encode())
            except RequestError:
                return text
    return text


def _means_yes(question: str) -> bool:
    return _typed(question).lower() in ("y", "yes")


def _typed(question: str) -> str:
    click.echo(printable(question), nl=False, err=True)
    return input().strip()


def _say(text: str) -> None:
    click.echo(printable(text), err=True)
