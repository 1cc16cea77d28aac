"""What servers say of errors."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from chatcore.openai.failure import Failure, failure_of, failure_of_response


def test_openrouter() -> None:
    """The number of the code is the status; `error_type` is the stable name; the rest is kept as details."""
    metadata = {"error_type": "rate_limit_exceeded", "provider_name": "X", "raw": "…"}
    said = {"error": {"code": 429, "message": "Rate limited", "metadata": metadata}, "user_id": "u"}
    assert failure_of(said) == Failure(
        message="Rate limited", status=429, kind="rate_limit_exceeded", details={"metadata": metadata}
    )


@pytest.mark.parametrize("names", [{"code": "no_endpoints"}, {"error_type": "no_endpoints", "http_status": 404}])
def test_availability(names: dict[str, Any]) -> None:
    """An error about a model says why, and when to try again."""
    availability = {"retryable": True, "retry_after": 7, **names}
    failure = failure_of({"error": {"code": 404, "message": "none", "availability": availability}})
    assert (failure.status, failure.retry_after) == (404, 7.0)
    assert failure.details == {"availability": availability}
    assert failure.kind == "no_endpoints"


@pytest.mark.parametrize(
    ("said", "message", "status", "kind"),
    [
        ({"error": {"message": "m", "type": "t", "param": None, "code": "c"}}, "m", None, "t"),
        ({"error": {"message": "m", "type": None, "code": "c"}}, "m", None, "c"),
        ({"error": "model 'x' not found"}, "model 'x' not found", None, None),
        ({"object": "error", "message": "m", "code": 400}, "m", 400, None),
        ({"detail": "m"}, "m", None, None),
        ({"detail": [{"loc": ["body"]}]}, '[{"loc":["body"]}]', None, None),
        ({"error": {"code": "503", "message": "m"}}, "m", 503, None),
        ({"error": {"code": 7, "message": "m"}}, "m", None, None),
        ({"error": {"code": True, "message": "m"}}, "m", None, None),
        ({"error": {"odd": 1}}, '{"odd":1}', None, None),
        ({"error": ["m"]}, '["m"]', None, None),
        ([{"error": {"code": 400, "message": "m", "status": "INVALID_ARGUMENT"}}], "m", 400, None),
        (["m"], "m", None, None),
        ([], "[]", None, None),
        ({"error": {"message": {"nested": 1}}}, '{"nested":1}', None, None),
        ("m", "m", None, None),
        (None, "null", None, None),
        ({"message": "two\n  lines"}, "two lines", None, None),
    ],
)
def test_others(said: object, message: str, status: int | None, kind: str | None) -> None:
    """OpenAI, Ollama, vLLM, FastAPI, and what nobody documents."""
    failure = failure_of(said)
    assert (failure.message, failure.status, failure.kind) == (message, status, kind)


def test_texts_are_cut() -> None:
    """An upstream's text ends up in logs and in front of people."""
    assert len(failure_of({"error": "x" * 5000}).message) == 1001


@pytest.mark.parametrize(
    ("body", "headers", "message"),
    [
        (b'{"error": {"message": "no"}}', {}, "no"),
        (b"", {}, "HTTP 502"),
        (b"upstream connect error", {}, "HTTP 502: upstream connect error"),
        (b"<html><head><TITLE>\n a.example | 502: Bad gateway </title>", {}, "HTTP 502: a.example | 502: Bad gateway"),
        (b" <!doctype html><p>no", {}, "HTTP 502: a page of HTML"),
        (b"\xff\xfe", {}, "HTTP 502: \ufffd\ufffd"),
        (b"[" * 100_000, {}, "HTTP 502: " + "[" * 990 + "…"),
        (b"", {"location": "https://example.org/"}, "HTTP 502: redirected to https://example.org/"),
    ],
)  # fmt: skip
def test_bodies(body: bytes, headers: dict[str, str], message: str) -> None:
    """An error page need not be JSON. The status is that of the response."""
    failure = failure_of_response(502, httpx.Headers(headers), body)
    assert (failure.message, failure.status) == (message, 502)


def test_what_cannot_be_written_again_is_mended() -> None:
    """Half of a surrogate pair, NaN: an error is stored and passed on as JSON and MessagePack."""
    failure = failure_of_response(400, {}, b'{"error": {"message": "a\\ud83d", "metadata": {"raw": [NaN, "\\ude00"]}}}')
    assert (failure.message, failure.details) == ("a?", {"metadata": {"raw": [None, "?"]}})


def test_the_status_of_the_response_counts() -> None:
    """Not what the body says of it."""
    assert failure_of_response(400, {}, b'{"error": {"code": 429, "message": "m"}}').status == 400


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "0"}, 0),
        ({"Retry-After-Ms": "250", "Retry-After": "9"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "-1"}, 3),
        ({"retry-after": "inf"}, 3),
        ({"retry-after": "soon"}, 3),
        ({}, 3),
    ],
)
def test_when_to_try_again(headers: dict[str, str], seconds: float) -> None:
    """Seconds, milliseconds or a date that has passed; where the header says nothing, what the body says."""
    body = b'{"error": {"message": "m", "availability": {"retry_after": 3}}}'
    assert failure_of_response(503, httpx.Headers(headers), body).retry_after == seconds


def test_a_date_to_try_again() -> None:
    """It is as far away as it is."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert failure_of_response(503, {"retry-after": date}, b"").retry_after == pytest.approx(60, abs=2)
