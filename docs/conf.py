"""How the documentation is built: `sphinx-build -n -W -b html docs build/docs`. It needs no network."""

from importlib import metadata

project = "chatcore"
project_copyright = "the chatcore contributors"
release = metadata.version("chatcore")

extensions = ["myst_parser"]
exclude_patterns = ["changes", "_build"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"chatcore {release}"
