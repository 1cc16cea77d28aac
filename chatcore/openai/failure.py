"""What a server says of an error, in any of the forms in which servers say it."""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import attrs

from chatcore import wire
from chatcore.tools import JsonObject

UNREADABLE = "unreadable"
"""The kind of failure where a server said something that cannot be read."""

_LONGEST = 1000  # characters of an error's text
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)


@attrs.frozen(kw_only=True)
class Failure:
    """An error as a server tells it.

    `status` is the HTTP status that it has or means, where there is one; `kind` its name for the cause; `retry_after`
    is in seconds; `details` is what else it said.
    """

    message: str
    status: int | None = None
    kind: str | None = None
    retry_after: float | None = None
    details: JsonObject | None = None


def failure_of(value: object) -> Failure:
    """The failure that a JSON value tells of.

    OpenAI: `{"error": {"message", "type", "param", "code"}}`. OpenRouter: `{"error": {"code", "message", "metadata"}}`,
    about models with `availability` too. Ollama: `{"error": "…"}`. FastAPI: `{"detail": …}`. A `code` may be a number,
    a number as text, or a name.
    """
    if isinstance(value, list) and len(value) == 1:  # as Google's servers have it
        value = value[0]
    if isinstance(value, Mapping) and value.get("error"):
        value = value["error"]
    if not isinstance(value, Mapping):
        return Failure(message=_short(value))
    metadata, availability = _object(value.get("metadata")), _object(value.get("availability"))
    code = value.get("code")
    kinds = [where.get("error_type") for where in (metadata, value, availability)]
    kinds += [availability.get("code"), value.get("type"), code]
    codes = [code, value.get("http_status"), value.get("status"), availability.get("http_status")]
    return Failure(
        message=_short(value.get("message") or value.get("detail") or value),
        status=next(filter(None, map(_status, codes)), None),
        kind=next((kind for kind in kinds if isinstance(kind, str) and not kind.isdigit()), None),
        retry_after=_number(availability.get("retry_after")),
        details={key: item for key, item in value.items() if key not in ("message", "code")} or None,
    )


def failure_of_response(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """The failure that a response with an error status tells of, whatever its body is."""
    try:
        said = failure_of(parsed(body))
    except ValueError:
        said = Failure(message=_without_json(status, headers, body))
    retry_after = _retry_after(headers)
    return attrs.evolve(said, status=status, retry_after=said.retry_after if retry_after is None else retry_after)


def parsed(body: bytes) -> Any:
    """The value of a JSON text, also of one that only Python's parser takes: NaN becomes null, half of a surrogate pair
    `?`, so that everybody else can be told.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(wire.dumps(json.loads(body)))
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _without_json(status: int, headers: Mapping[str, str], body: bytes) -> str:
    text = body.decode(errors="replace").strip()
    if location := headers.get("location"):
        text = f"redirected to {location}"
    elif title := _TITLE.search(text):
        text = title[1]
    elif text.startswith("<"):
        text = "a page of HTML"
    return _short(f"HTTP {status}: {text}" if text else f"HTTP {status}")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds: OpenAI's servers say milliseconds too; the standard allows seconds or a date."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    value = headers.get("retry-after", "")
    if (seconds := _number(value)) is not None:
        return seconds
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # not a date, or one without a zone
        return None


def _number(value: object) -> float | None:
    if not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None


def _status(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and 400 <= number <= 599 else None


def _short(value: object) -> str:
    text = " ".join((value if isinstance(value, str) else wire.dumps(value).decode()).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
