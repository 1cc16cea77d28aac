"""Messages, cut to what can be used of them."""

import base64
import gc
import json
import time

import pytest
from chatcore_mcp.sizes import bounded, refused


def message(**result):
    return json.dumps({"jsonrpc": "2.0", "id": 7, "result": result}).encode()


def cut(**result):
    """What is left of a result."""
    found = json.loads(bounded(message(**result)))
    assert found["id"] == 7
    return found["result"]


def test_a_short_message_stays_as_it_is():
    """To the byte, as does what is no JSON."""
    short = message(content=[{"type": "text", "text": "é\n"}], isError=True, _meta={"a": [1]})
    assert bounded(short) is short
    broken = b'{"id": 1, "result": {"content": [' + b"x" * 1_000_000
    assert bounded(broken) is broken


def test_a_long_text_is_cut_and_the_rest_stays():
    """What else the answer says stays as well."""
    result = cut(content=[{"type": "text", "text": '"é\\' * 1_000_000}, {"type": "text", "text": "b"}], isError=True)
    assert result["content"][0]["text"] == ('"é\\' * 1_000_000)[:400_000]
    assert result["content"][1] == {"type": "text", "text": "b"}
    assert result["isError"] is True


def test_many_parts_are_cut():
    """And the model learns how many there were."""
    parts = cut(content=[{"type": "text", "text": "x" * 100}] * 5000)["content"]
    assert len(parts) == 201
    assert parts[-1]["text"] == "[4800 more parts were left out: the limit is 200]"


def test_long_structured_content_is_left_out():
    """Its text is there; where it is not, the beginning of it becomes a text."""
    rows = {"rows": [{"a": 1}] * 50_000}
    both = cut(content=[{"type": "text", "text": "the rows"}], structuredContent=rows)
    assert both == {"content": [{"type": "text", "text": "the rows"}]}
    alone = cut(content=[], structuredContent=rows)
    assert alone["content"][0]["text"].startswith('{"rows": [{"a": 1}, ')
    small = cut(content=[{"type": "text", "text": "x" * 500_000}], structuredContent={"a": 1})
    assert small["structuredContent"] == {"a": 1}


def test_images_stay_up_to_a_size():
    """Of a larger one, and of a larger file, there is a word."""
    image = {"type": "image", "mimeType": "image/png", "data": base64.b64encode(b"x" * 3_000_000).decode()}
    assert cut(content=[image])["content"] == [image]
    for large in (
        {**image, "data": "A" * 9_000_000},
        {"type": "resource", "resource": {"uri": "x:y", "blob": "A" * 9_000_000}},
    ):
        assert cut(content=[large])["content"][0]["text"].startswith("[a file of 8.")
    text = {"type": "resource", "resource": {"uri": "x:y", "text": "t" * 2_000_000}}
    assert len(cut(content=[text])["content"][0]["resource"]["text"]) == 400_000


def test_other_messages_have_a_limit():
    """A list of tools may be long, and not of any length; what is too long is answered with an error."""
    tools = [{"name": "x" * 1000}] * 2000
    assert bounded(message(tools=tools)) == message(tools=tools)
    error = json.loads(bounded(message(tools=tools * 3)))
    assert error["id"] == 7
    assert error["error"]["message"] == "the message has 5.8 MB, the limit is 4.0 MB"


@pytest.fixture(scope="module")
def apart() -> float:
    """Seconds that it takes to take five megabytes of small values apart."""
    return least(json.loads, message(content=[], structuredContent=[[]] * 1_200_000))


@pytest.mark.parametrize(
    "result",
    [
        {"content": [{"type": "text", "text": "x" * 5_000_000}]},
        {"content": [{"type": "text", "text": "x"}] * 150_000},
        {"content": [], "structuredContent": {"rows": [{"a": 1, "b": [1, 2, 3]}] * 200_000}},
        {"content": [], "structuredContent": [[]] * 1_200_000},
    ],
    ids=["text", "parts", "rows", "nothing"],
)
def test_five_megabytes_take_a_moment(result, apart):
    """Whatever they are made of: much less than to take small values apart takes, which hundreds would wait for."""
    took = least(bounded, message(**result))
    print(f"{took * 1000:.1f} ms, {apart * 1000:.1f} ms to take small values apart")
    assert took < apart / 2


def least(work, data):
    """The least time of the CPU that some work took, of three times: the rest is what else happened meanwhile."""
    took = []
    gc.disable()  # how long that takes depends on what all tests before have left
    for _ in range(3):
        before = time.thread_time()
        work(data)
        took.append(time.thread_time() - before)
    gc.enable()
    return min(took)


def test_a_request_is_answered_with_an_error():
    """By its id as it stands on the wire."""
    assert json.loads(refused(b"12", "no")) == {
        "jsonrpc": "2.0",
        "id": 12,
        "error": {"code": -32000, "message": "no"},
    }
