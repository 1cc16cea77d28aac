"""The title that a conversation gets by itself."""

from chatcore.types import Content, content_text

LONGEST = 60
"""Characters. A longer text is cut, and ends in three dots."""


def auto_title(content: Content) -> str | None:
    """A title made of the first message of a conversation, on one line, or None if the message has no text."""
    text = " ".join(content_text(content).split())
    if len(text) > LONGEST:
        text = text[: LONGEST - 3] + "..."
    return text or None
