"""Text of others that is safe to print."""


def printable(text: str) -> str:
    """The text with what a terminal would take for an order, and what nobody would see, written out as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
