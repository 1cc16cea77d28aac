"""The chat in a terminal: what `chatcore chat` is made of."""
