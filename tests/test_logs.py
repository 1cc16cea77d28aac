"""Log lines (chatcore/logs.py)."""

import logging
from collections.abc import Iterator

import pytest

from chatcore import logs
from chatcore.errors import NotFound


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The logger whose handlers `configure` replaces."""
    root, own = logging.getLogger(), logging.getLogger("chatcore")
    handlers, levels = root.handlers[:], (root.level, own.level)
    yield root
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


def test_what_others_have_sent_does_not_look_like_a_line_of_ours(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """A path may have any character: what follows a line break is indented, and a terminal obeys nothing of it."""
    logs.configure("info", "console", worker=2)
    logging.getLogger("chatcore.app").error("%s failed", "GET /a\n00:00:00 error chatcore.app: all is lost\x1b[2J")
    first, second, *others = capsys.readouterr().err.splitlines()
    assert first.endswith(" [2] error chatcore.app: GET /a")
    assert second == "    00:00:00 error chatcore.app: all is lost\\x1b[2J failed"
    assert others == []


def test_a_fault_that_nobody_foresaw_is_logged_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    """Of one that was foreseen its text says all."""
    logger = logging.getLogger("chatcore.app")
    logs.fault(logger, "the upkeep failed", NotFound("gone"))
    logs.fault(logger, "the upkeep failed", ZeroDivisionError("a bug"))
    foreseen, other = caplog.records
    assert (foreseen.getMessage(), foreseen.exc_info) == ("the upkeep failed: gone", None)
    assert other.exc_info is not None
