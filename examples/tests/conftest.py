"""How the examples are reached: through the same door as with `--plugins-dir`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatcore.hooks import Plugin
from chatcore.plugins import find

EXAMPLES = Path(__file__).parents[1]


@pytest.fixture
def load_example() -> Callable[[str], type[Plugin[Any]]]:
    """Gives the plugin class of an example by the name of its file."""

    def load(name: str) -> Any:
        return next(found for found in find(plugins_dir=EXAMPLES) if found.name == name).load()

    return load
