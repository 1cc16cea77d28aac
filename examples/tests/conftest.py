"""How the examples are reached: each is one file, and the plugin the one class in it that is one."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from chatcore.hooks import Plugin

EXAMPLES = Path(__file__).parents[1]


@pytest.fixture
def load_example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], type[Plugin[Any]]]:
    """Gives the plugin class of an example by the name of its file."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def load(name: str) -> Any:
        classes = [value for value in vars(import_module(name)).values() if isinstance(value, type)]
        [plugin] = [cls for cls in classes if issubclass(cls, Plugin) and cls is not Plugin]
        return plugin

    return load
