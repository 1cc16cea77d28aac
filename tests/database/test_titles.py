"""The title that a conversation gets by itself."""

import pytest

from chatcore.database.titles import auto_title


@pytest.mark.parametrize(
    ("content", "title"),
    [
        ("Hello", "Hello"),
        ("  What is\n\n a  monad? ", "What is a monad?"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 57 + "..."),
        ("é" * 61, "é" * 57 + "..."),
        ("", None),
        (" \n", None),
        (None, None),
        ((), None),
        (({"type": "text", "text": "See"}, {"type": "image_url"}, {"type": "text", "text": "this"}), "See this"),
        (({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},), None),
    ],
)
def test_title_is_the_text_on_one_line_of_at_most_60_characters(content, title):
    """Text parts are joined, white space is one space, a longer text ends in three dots; no text, no title."""
    assert auto_title(content) == title
