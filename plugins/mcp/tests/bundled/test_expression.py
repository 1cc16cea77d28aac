"""Arithmetic without `eval` (chatcore_mcp/bundled/expression.py)."""

import time
from contextlib import suppress

import pytest
from chatcore_mcp.bundled.expression import LONGEST, Unreadable, evaluate
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1", 1),
        (" (3 + 4) * 2 ** 10 / 7 ", 1024.0),
        ("7 // 2 - -7 % 3", 1),
        ("-2 ** 2", -4),
        ("2 ** -1", 0.5),
        ("2 ** 0.5 ** 2", 2**0.25),
        ("1e3 + 0x10 + 1_000", 2016.0),
        ("2 ** 4095 // 2 ** 4090", 32),
        ("((((((((((1))))))))))", 1),
        ("-" * 200 + "1", 1),
        ("1 ** 9999 ** 2 - 0 ** 9999", 1),
    ],
)
def test_arithmetic(expression: str, value: float) -> None:
    """As Python has it; whole numbers stay exact."""
    assert evaluate(expression) == value
    assert type(evaluate(expression)) is type(value)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("1 / 0", "division by zero"),
        ("1 % (2 - 2)", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("9 ** 9 ** 9", "too large"),
        ("10 ** 10000", "too large"),
        ("2 ** 4095 * 2", "too large"),
        ("1e308 * 10", "too large"),
        ("1e999", "too large"),
        ("9.0 ** 9999", "too large"),
        ("(-8) ** 0.5", "not a real number"),
        ("", "not an arithmetic expression"),
        ("1 +", "not an arithmetic expression"),
        ("1; 2", "not an arithmetic expression"),
        ("(" * 400 + "1" + ")" * 90, "not an arithmetic expression"),
        (f"2 ** {10**400}", "too large"),
        ("\0", "not an arithmetic expression"),
        ("9" * 4400, "longer than"),
        ("1" + "+1" * LONGEST, "longer than"),
        ("x", "neither a number"),
        ("True", "neither a number"),
        ("'a' * 9", "neither a number"),
        ("1j", "neither a number"),
        ("1 << 9", "neither a number"),
        ("~1", "neither a number"),
        ("[1][0]", "neither a number"),
        ("().__class__", "neither a number"),
        ("__import__('os').system('true')", "neither a number"),
        ("(lambda: 1)()", "neither a number"),
        ("1 if 1 else 2", "neither a number"),
        ("1 < 2", "neither a number"),
    ],
)
def test_what_is_none_is_refused(expression: str, said: str) -> None:
    """With the reason."""
    with pytest.raises(Unreadable, match=said):
        evaluate(expression)


@given(st.text(alphabet="0123456789.eE+-*/%()_ x", max_size=60))
def test_no_expression_takes_long(expression: str) -> None:
    """Whatever is written: there is a number, or a reason."""
    started = time.process_time()
    with suppress(Unreadable):
        assert isinstance(evaluate(expression), int | float)
    assert time.process_time() - started < 0.5
