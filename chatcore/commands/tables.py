"""Checks as a table."""

from collections.abc import Iterator, Sequence

from chatcore.console import table
from chatcore.operation.checks import Check


def checks_table(checks: Sequence[Check]) -> str:
    """Checks in lines, each remedy below what it is for."""
    return table(("CHECK", "STATE", "FOUND"), [row for check in checks for row in _lines(check)])


def _lines(check: Check) -> Iterator[Sequence[str]]:
    first, *others = check.found.splitlines()
    yield check.name, check.state, first
    yield from (("", "", line) for line in others)
    if check.remedy:
        yield "", "", f"remedy: {check.remedy}"
