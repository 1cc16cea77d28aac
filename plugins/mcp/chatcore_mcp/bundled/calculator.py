"""`local-calculator`: arithmetic that a model need not do in its head."""

import math
from typing import Annotated, Literal

import click
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from chatcore_mcp.bundled.expression import LONGEST, Unreadable, evaluate
from chatcore_mcp.bundled.serving import READ_ONLY, http_option, make_server, serve

server = make_server("local-calculator", "Exact arithmetic.")


@server.tool(annotations=READ_ONLY)
def calculator_evaluate(operation: Literal["add", "subtract", "multiply", "divide"], a: float, b: float) -> str:
    """Add, subtract, multiply or divide two numbers."""
    match operation:
        case "add":
            result = a + b
        case "subtract":
            result = a - b
        case "multiply":
            result = a * b
        case "divide":
            if b == 0:
                raise ToolError("division by zero")
            result = a / b
    if not math.isfinite(result):
        raise ToolError("the result is not a finite number")
    return str(result)


@server.tool(annotations=READ_ONLY)
def calculator_expression(expression: Annotated[str, Field(max_length=LONGEST)]) -> str:
    """Evaluate an arithmetic expression, such as (3 + 4) * 2 ** 10 / 7. Knows + - * / // % ** and parentheses."""
    try:
        return str(evaluate(expression))
    except Unreadable as error:
        raise ToolError(str(error)) from error


@click.command()
@http_option(9003)
def main(port: int | None) -> None:
    """An MCP server for exact arithmetic."""
    serve(server, port)


if __name__ == "__main__":
    main()
