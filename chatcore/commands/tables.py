"""Tables of text."""

from collections.abc import Iterator, Sequence

from chatcore.operation.checks import Check


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under a head, in columns as wide as they need to be; the last one runs on."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head) - 1)]
    return "\n".join(
        "  ".join([cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)] + [row[-1]]).rstrip()
        for row in (head, *rows)
    )


def checks_table(checks: Sequence[Check]) -> str:
    """Checks in lines, each remedy below what it is for."""
    return table(("CHECK", "STATE", "FOUND"), [row for check in checks for row in _lines(check)])


def _lines(check: Check) -> Iterator[Sequence[str]]:
    first, *others = check.found.splitlines()
    yield check.name, check.state, first
    yield from (("", "", line) for line in others)
    if check.remedy:
        yield "", "", f"remedy: {check.remedy}"
