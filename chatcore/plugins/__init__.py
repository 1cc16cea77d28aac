"""Plugins: how they are found, checked, loaded, asked and taken out again.

`Plugins.load` is where it begins; `find` and `check` are its parts.
"""

from chatcore.plugins.find import Found, find
from chatcore.plugins.load import Hook, Plugins, Row, State, unknown_names

__all__ = ["Found", "Hook", "Plugins", "Row", "State", "find", "unknown_names"]
