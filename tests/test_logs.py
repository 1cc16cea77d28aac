"""Log lines (chatcore/logs.py)."""

import logging
from collections.abc import Iterator

import pytest

from chatcore import logs


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
