"""Arithmetic expressions, evaluated without `eval`: numbers, operators, parentheses, and nothing else.

What an expression may take is bounded by its length and by the size of every number on the way, so that no expression
takes more than a moment.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import TypeAlias

Number: TypeAlias = int | float

LONGEST = 500
"""Characters of an expression."""
LARGEST = 4096
"""Bits of a whole number: some 1,200 digits."""

_BINARY: Mapping[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: Mapping[type[ast.unaryop], Callable[[Number], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


class Unreadable(Exception):
    """The expression has no value. The text says why."""


def evaluate(expression: str) -> Number:
    """The value of an expression.

    Raises:
        Unreadable: it is none, divides by zero, or is too long or too large.
    """
    if len(expression) > LONGEST:
        raise Unreadable(f"the expression is longer than {LONGEST} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        return _value(tree.body)
    except ZeroDivisionError as error:
        raise Unreadable("division by zero") from error
    except OverflowError as error:
        raise Unreadable("a number is too large") from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Unreadable("this is not an arithmetic expression") from error


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _bounded(_power(_value(left), _value(right)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _bounded(_BINARY[type(op)](_value(left), _value(right)))
    raise Unreadable(f"{ast.unparse(node)!r} is neither a number nor + - * / // % ** or parentheses")


def _power(base: Number, exponent: Number) -> Number:
    # Looked at before: the work grows with the result.
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and abs(base) > 1 and exponent * math.log2(abs(base)) > LARGEST:
        raise OverflowError
    result = base**exponent
    if isinstance(result, complex):
        raise Unreadable("the root of a negative number is not a real number")
    return result


def _bounded(number: Number) -> Number:
    if isinstance(number, float) and not math.isfinite(number):
        raise OverflowError
    if isinstance(number, int) and number.bit_length() > LARGEST:
        raise OverflowError
    return number
