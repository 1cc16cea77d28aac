"""Reading `.env` files."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcore import dotenv
from chatcore.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=b", "b"),
        ("A=", ""),
        ("A=  ", ""),
        ("A = b ", "b"),
        ("  A=b", "b"),
        ("export A=b", "b"),
        ("\texport\tA=b", "b"),
        ("A=b c", "b c"),
        ("A=b=c==", "b=c=="),
        ("A=https://x.example/?a=1&b=2#part", "https://x.example/?a=1&b=2#part"),
        ("A=b # comment", "b"),
        ("A=b\t# comment", "b"),
        ("A=b#c", "b#c"),
        ("A=#c", "#c"),
        ("A= # comment", ""),
        ("A=it's", "it's"),
        ('A=a"b"', 'a"b"'),
        ("A=$HOME", "$HOME"),
        ("A=${HOME}", "${HOME}"),
        ("A=a\\nb", "a\\nb"),
        ("A=Größe", "Größe"),
        ("A='b'", "b"),
        ("A=''", ""),
        ("A=' b # c '", " b # c "),
        ("A='b' # comment", "b"),
        ("A='b\\n\"c\"$'", 'b\\n"c"$'),
        ("A='b\nc'", "b\nc"),
        ('A="b"', "b"),
        ('A=""', ""),
        ('A="b" # "comment"', "b"),
        ('A="b # c"', "b # c"),
        ('A="it\'s"', "it's"),
        ('A="a\\nb\\tc\\rd"', "a\nb\tc\rd"),
        ('A="say \\"b\\""', 'say "b"'),
        ('A="C:\\\\x"', "C:\\x"),
        ('A="\\$5 \\d"', "$5 \\d"),
        ('A="-----BEGIN-----\nabc=\n-----END-----\n"', "-----BEGIN-----\nabc=\n-----END-----\n"),
        ("A=b\r\n", "b"),
        ('A="b"\r\n', "b"),
        ("A=1\nA=2", "2"),
    ],
)
def test_a_value(text: str, value: str) -> None:
    """As shells and Docker Compose read it, without expanding names."""
    assert dotenv.parse(text) == {"A": value}
    assert dotenv.parse(f"# first\n\n{text}\n  # last\nB=x") == {"A": value, "B": "x"}


@pytest.mark.parametrize("text", ["", "\n\n", "# only", "  # only\n\t\n#", "   ", "\r\n"])
def test_nothing_is_in_comments_and_blank_lines(text: str) -> None:
    """Such lines may stand anywhere."""
    assert dotenv.parse(text) == {}


BAD_QUOTES = ['A="b', 'A="b" c', 'A="b\\"']


@pytest.mark.parametrize(
    "line",
    ["A", "export", "export A", "A: b", "=b", "1A=b", "A-B=c", "A B=c", '"A"=b', "ä=b", "A='b", "A='b'c", *BAD_QUOTES],
)
def test_what_is_not_understood_is_named_by_its_line(line: str) -> None:
    """The text says where, and does not repeat what may be a secret."""
    with pytest.raises(ConfigError) as wrong:
        dotenv.parse(f"X=1\n\nY='a\nb'\n{line}", "my.env")
    assert wrong.value.message == "my.env, line 5: not of the form NAME=value"
    assert wrong.value.hint


def test_no_file_is_no_values(tmp_path: Path) -> None:
    """Nobody needs one."""
    assert dotenv.read(tmp_path / ".env") == {}


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Editors on Windows put one there."""
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfA=b\r\nC='d'\r\n")
    assert dotenv.read(tmp_path / ".env") == {"A": "b", "C": "d"}


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    """It is named; it is not taken for an empty one."""
    (tmp_path / ".env").write_bytes(b"A=\xff")
    with pytest.raises(ConfigError, match=r"\.env"):
        dotenv.read(tmp_path / ".env")
    (tmp_path / "directory").mkdir()
    with pytest.raises(ConfigError, match="directory"):
        dotenv.read(tmp_path / "directory")


@given(st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True), st.text()))
def test_any_value_can_be_written_in_double_quotes(values: dict[str, str]) -> None:
    """Whatever it holds, with four characters escaped."""
    values = {name: value.replace("\r\n", "\n") for name, value in values.items()}
    table = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
    text = "\n".join(f'{name}="{value.translate(table)}"' for name, value in values.items())
    assert dotenv.parse(text) == values


@given(st.text(st.characters(exclude_characters="'\r")))
def test_single_quotes_take_everything_as_it_is(value: str) -> None:
    """But for the quote itself."""
    assert dotenv.parse(f"A='{value}'") == {"A": value}


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    """It gives values, or the one error that is meant for a user."""
    with contextlib.suppress(ConfigError):
        assert all(name and isinstance(value, str) for name, value in dotenv.parse(text).items())
