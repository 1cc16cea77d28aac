"""The documentation is true: its code runs, its commands print what it shows, and nothing that exists is missing."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import attrs
import click
import pytest
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser, SkipParser

from chatcore import errors
from chatcore.app import create_app
from chatcore.cli import command
from chatcore.config import Config, Loaded
from chatcore.hooks import Plugin
from chatcore.plugins import Plugins
from chatcore.settings import options

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "changes" not in path.parts)
KINDS = {"tutorials": "Tutorials", "how-to": "How-to guides", "explanation": "Explanation", "reference": "Reference"}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_of(*paths: str) -> str:
    """The text of pages of the documentation; of a directory, all pages in it."""
    files = [file for path in paths for file in ([DOCS / path] if path.endswith(".md") else (DOCS / path).glob("*.md"))]
    return "\n".join(file.read_text() for file in files)


# --- code -------------------------------------------------------------------------------------------------------------


def run_block(example: Example) -> None:
    """Runs a block of Python, and notes the tests that it defines."""
    known = set(example.namespace)
    source = "\n" * (example.line + example.parsed.line_offset) + example.parsed
    exec(compile(source, example.path, "exec", dont_inherit=True), example.namespace)  # noqa: S102  our own pages
    tests = [example.namespace[key] for key in example.namespace.keys() - known if key.startswith("test_")]
    example.document.namespace.setdefault("found", []).extend(tests)


def code_of(page: Path) -> Iterator[Example]:
    parsers = [CodeBlockParser("python", run_block), SkipParser()]
    return iter(Document.parse(str(page), *parsers).examples())


WITH_CODE = [page for page in [ROOT / "README.md", *PAGES] if "```python" in page.read_text()]


@pytest.mark.parametrize("page", WITH_CODE, ids=name)
async def test_the_code_of_a_page_runs(page: Path, request: pytest.FixtureRequest, make_chat: Any, tmp_path: Path):
    """Every block of Python, in the order of the page and in one namespace; the tests among it pass."""
    for example in code_of(page):
        example.namespace.setdefault("__name__", page.stem)
        example.evaluate()
        for test in example.namespace.pop("found", ()):
            fixtures = {"make_chat": make_chat, "tmp_path": tmp_path}
            wanted = {key: fixtures[key] for key in inspect.signature(test).parameters}
            outcome = test(**wanted)
            if inspect.isawaitable(outcome):
                await outcome
