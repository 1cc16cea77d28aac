"""The filters of the catalogue."""

import json

import pytest

from chatcore.builtin.models.filters import leaves, parse
from chatcore.errors import RequestError

ENTRY = {
    "id": "openai/gpt-4",
    "context_length": 8192,
    "pricing": {"prompt": "0.00003", "completion": "x"},
    "top_provider": {"is_moderated": True},
    "series": ["GPT", "Other"],
    "endpoints": [{"tag": "a", "regions": ["eu", "us"]}, {"tag": "b"}],
    "hugging_face_id": None,
    "aliases": [],
    "flags": [False, 0],
}


def passes(filters):
    """Whether the entry passes the filters."""
    return all(test(ENTRY) for test in parse(json.dumps(filters)))


@pytest.mark.parametrize(
    ("path", "criterion", "fits"),
    [
        # A value.
        ("id", "OpenAI/GPT-4", True),
        ("id", "openai", False),
        ("context_length", 8192, True),
        ("context_length", 8192.0, True),
        ("context_length", "8192", False),
        ("top_provider.is_moderated", True, True),
        ("top_provider.is_moderated", 1, False),
        ("flags", 0, True),
        ("flags", False, True),
        ("flags", True, False),
        ("flags", 1, False),
        ("hugging_face_id", None, True),
        ("id", None, False),
        ("missing", None, False),
        ("missing", "x", False),
        # A path leads through lists.
        ("series", "gpt", True),
        ("series", "claude", False),
        ("endpoints.tag", "B", True),
        ("endpoints.regions", "us", True),
        ("endpoints.missing", "us", False),
        ("endpoints.tag.deeper", "a", False),
        ("series.0", "GPT", False),
        ("", "x", False),
        (".", "x", False),
        # A list: one of these.
        ("series", ["claude", "OTHER"], True),
        ("series", ["claude"], False),
        ("series", [], False),
        ("context_length", [1, 8192], True),
        # Operators.
        ("id", {"eq": "OPENAI/gpt-4"}, True),
        ("id", {"equals": "x"}, False),
        ("id", {"neq": "x"}, True),
        ("id", {"neq": "openai/gpt-4"}, False),
        ("series", {"not": ["gpt", "claude"]}, False),
        ("series", {"not": ["grok", "claude"]}, True),
        ("missing", {"not": "x"}, True),
        ("id", {"contains": "GPT"}, True),
        ("series", {"substring": "the"}, True),
        ("id", {"contains": "claude"}, False),
        ("context_length", {"contains": 8}, False),
        ("id", {"contains": None}, False),
        ("id", {"in": ["x", "openai/gpt-4"]}, True),
        ("id", {"one_of": ["x"]}, False),
        ("id", {"in": "openai/gpt-4"}, True),
        ("context_length", {"min": 8192}, True),
        ("context_length", {"min": 8193}, False),
        ("context_length", {"gte": "8000"}, True),
        ("context_length", {"max": 8192, "min": 1}, True),
        ("context_length", {"lte": 8191}, False),
        ("pricing.prompt", {"max": 0.00003}, True),
        ("pricing.prompt", {"max": "0.00002"}, False),
        ("pricing.completion", {"min": 0}, False),
        ("context_length", {"min": "many"}, False),
        ("context_length", {"min": None}, False),
        ("context_length", {"max": "9" * 400}, True),
        ("context_length", {"max": "NaN"}, False),
        ("context_length", {"min": True}, False),
        ("context_length", {"max": [9000]}, False),
        ("top_provider.is_moderated", {"min": 0}, False),
        ("id", {"exists": True}, True),
        ("pricing", {"exists": True}, True),
        ("id", {"exists": False}, False),
        ("missing", {"exists": False}, True),
        ("missing", {"exists": True}, False),
        ("hugging_face_id", {"exists": True}, False),
        ("aliases", {"exists": False}, True),
        ("id", {"exists": "yes"}, False),
        # All operators must hold; one that is not known never does; none at all always do.
        ("context_length", {"min": 1, "max": 10}, False),
        ("context_length", {"near": 8192}, False),
        ("context_length", {"min": 1, "near": 8192}, False),
        ("id", {"MIN": 1}, False),
        ("id", {}, True),
    ],
)
def test_criterion(path, criterion, fits):
    """What each kind of criterion means."""
    assert passes({path: criterion}) is fits


def test_all_paths_must_hold():
    """Different paths are joined by AND; none at all let everything pass."""
    assert passes({"series": "gpt", "context_length": {"min": 1}})
    assert not passes({"series": "gpt", "context_length": {"max": 1}})
    assert passes({})


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_blank_is_no_filter(text):
    """A parameter without a value asks for nothing."""
    assert parse(text) == ()


@pytest.mark.parametrize(
    "text", ["[]", "5", '"x"', "null", "{", "{'a': 1}", '{"a": NaN}', "\ud800", "[" * 10_000, "9" * 400]
)
def test_what_is_no_json_object_is_a_bad_request(text):
    """400, whatever it is instead."""
    with pytest.raises(RequestError) as caught:
        parse(text)
    assert caught.value.status == 400


def test_leaves_are_the_values_at_any_depth():
    """Neither objects nor lists are leaves."""
    assert list(leaves({"a": [1, {"b": None}], "c": {}, "d": "x"})) == [1, None, "x"]
