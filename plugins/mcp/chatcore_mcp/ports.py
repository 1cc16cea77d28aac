"""The ports on which servers are looked for: as set, else by `mcp_ports.conf` in the data directory, else 9001 to 9017.

The file is the one that scripts beside chatcore read as well: lines `MCP_PORT_START=9001` and `MCP_PORT_END=9017`, and
whatever else they need.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import attrs

PORTS_FILE = "mcp_ports.conf"
FIRST, LAST = 9001, 9017
HIGHEST = 65535

_LINE = re.compile(r"^\s*(?:export\s+)?MCP_PORT_(START|END)\s*=\s*[\"']?(\d{1,9})[\"']?\s*(?:#.*)?$", re.MULTILINE)


@attrs.frozen
class Ports:
    """Where they are looked for. `first` and `last` are None where nobody has set them."""

    path: Path
    log: logging.Logger
    first: int | None = None
    last: int | None = None

    def range(self) -> range:
        """The ports as they are at the moment; it reads the file, and is for a thread. None, with a word in the log, if
        the numbers make no sense."""
        written = self._written() if None in (self.first, self.last) else {}
        first = self.first or written.get("START", FIRST)
        last = self.last or written.get("END", LAST)
        if not 1 <= first <= last <= HIGHEST:
            self.log.warning("not looking for servers on the ports %d to %d: no such range", first, last)
            return range(0)
        return range(first, last + 1)

    def _written(self) -> Mapping[str, int]:
        """What the file says, as far as it can be read."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            self.log.warning("%s cannot be read, and does not count: %s", self.path, error)
            return {}
        return {name: int(number) for name, number in _LINE.findall(text)}
