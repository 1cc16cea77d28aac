"""A Secret never prints."""

import copy
import dataclasses
import json
import logging
import pickle
import traceback

import attrs
import pytest

from chatcore import wire
from chatcore.secrets import Secret

VALUE = "sk-or-v1-0123456789"


@attrs.frozen
class Settings:
    api_key: Secret | None = None


@dataclasses.dataclass
class Data:
    api_key: Secret


def test_reveal_gives_the_value() -> None:
    """The one way to it has a name that a reviewer sees."""
    assert Secret(VALUE).reveal() == VALUE


@pytest.mark.parametrize(
    "text",
    [
        repr(Secret(VALUE)),
        str(Secret(VALUE)),
        f"{Secret(VALUE)} {Secret(VALUE)!r} {Secret(VALUE)!s:>40} {Secret(VALUE):>40}",
        "%s %r" % (Secret(VALUE), Secret(VALUE)),  # noqa: UP031 - as the logging module does it
        "{0} {0!r}".format(Secret(VALUE)),
        repr([Secret(VALUE)]),
        repr(Settings(Secret(VALUE))),
        repr(attrs.asdict(Settings(Secret(VALUE)))),
        repr(attrs.astuple(Settings(Secret(VALUE)))),
        repr(dataclasses.asdict(Data(Secret(VALUE)))),
    ],
)
def test_no_text_shows_it(text: str) -> None:
    """However it is formatted, alone or inside something else."""
    assert VALUE not in text
    assert "***" in text


def test_no_log_line_shows_it(caplog: pytest.LogCaptureFixture) -> None:
    """Not as an argument, and not in the arguments of an error."""
    logger = logging.getLogger("test")
    logger.warning("settings %s", Settings(Secret(VALUE)))
    try:
        raise ValueError(Secret(VALUE))
    except ValueError:
        logger.exception("failed")
        assert VALUE not in traceback.format_exc()
    assert VALUE not in caplog.text


def test_it_has_no_form_in_json() -> None:
    """An answer that holds one by mistake fails, rather than telling it."""
    for dumps in (json.dumps, wire.dumps):
        with pytest.raises(TypeError):
            dumps({"key": Secret(VALUE)})
    assert VALUE not in json.dumps(Settings(Secret(VALUE)), default=repr)


def test_it_is_not_pickled() -> None:
    """Queues and caches would keep it in the clear."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(Secret(VALUE), protocol)


def test_it_has_no_attributes_to_find() -> None:
    """What prints an object's attributes finds none."""
    with pytest.raises(TypeError):
        vars(Secret(VALUE))


def test_a_copy_is_the_same() -> None:
    """Frozen values may be copied with what they hold."""
    secret = Secret(VALUE)
    assert copy.copy(secret) is secret
    assert copy.deepcopy([secret])[0] is secret
    assert attrs.evolve(Settings(secret)).api_key is secret


def test_equal_values_are_equal() -> None:
    """So that settings can be compared; a Secret is not its text."""
    assert Secret(VALUE) == Secret(VALUE)
    assert Secret(VALUE) != Secret("other")
    assert Secret(VALUE) != VALUE
    assert len({Secret(VALUE), Secret(VALUE)}) == 1
    assert Secret("\udcff") == Secret("\udcff")


def test_it_is_structured_only_from_itself() -> None:
    """A request's JSON cannot make one: text is turned into a Secret by whoever reads settings."""
    assert wire.structure({"api_key": Secret(VALUE)}, Settings) == Settings(Secret(VALUE))
    with pytest.raises(Exception, match="api_key"):
        wire.structure({"api_key": VALUE}, Settings)
