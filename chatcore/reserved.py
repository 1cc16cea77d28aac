"""Names that are the core's own: no plugin's contribution may have them."""

from collections.abc import Mapping

COMMANDS: Mapping[str, str] = {
    "serve": "Serve the chat API.",
    "chat": "Chat in the terminal.",
    "plugins": "List the plugins: what is on, what is not and why.",
    "hooks": "List the hooks, and which plugins implement them.",
    "tools": "List the tools, and review those that have changed.",
    "config": "Print every setting with where it came from.",
    "new": "Make a plugin of your own from the template.",
    "check": "Check an installed plugin against the contracts.",
    "doctor": "Look for what is wrong, and say what to do about it.",
    "backup": "Write everything that is kept to one file, while the server runs.",
    "restore": "Put a backup into the data directory, or only verify it.",
    "copy": "Copy a database to another one, from a file to PostgreSQL or back.",
    "version": "Print the version.",
}
"""The commands of the core, each `chatcore.commands.NAME:NAME`, as `--help` lists them without importing any."""
