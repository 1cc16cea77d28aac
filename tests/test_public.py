"""The public names (chatcore/__init__.py)."""

import subprocess
import sys

import pytest

import chatcore


def test_every_public_name_is_there() -> None:
    """What is announced can be imported, and is the same as in the module that defines it."""
    for name in chatcore.__all__:
        module = sys.modules[f"chatcore.{chatcore._HOME[name]}"] if getattr(chatcore, name) else None
        assert getattr(chatcore, name) is getattr(module, name)
    assert sorted(chatcore.__all__) == sorted(chatcore._HOME)


def test_an_unknown_name_is_an_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        chatcore.Nope  # noqa: B018


def test_importing_chatcore_imports_nothing_else_of_it() -> None:
    """The command line starts in a moment because of that."""
    code = "import sys, chatcore; print([m for m in sys.modules if m.startswith(('chatcore.', 'attrs', 'quart'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
