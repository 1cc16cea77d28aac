"""What tools are called, so that every model accepts it and nobody else's tool is meant.

A name depends only on which tools are known of all servers, not on the order in which they came or on who is connected
at the moment: a conversation finds its tools again.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping

LONGEST = 64

_ROUNDS = 3  # a server may call a tool as another's would be called with its digest
_FOREIGN = re.compile(r"[^A-Za-z0-9_-]")


def exposed(tools: Iterable[tuple[str, str]], prefixes: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """The names under which tools are offered, by (server, tool).

    A server that is in `prefixes` has that before the names of all its tools. Another's tool has its own name, as far
    as it is made of letters, digits, `_` and `-`; where two servers would have the same, both are `SERVER__TOOL`. A
    name that is too long, or still not the only one, ends in a digest of what it stands for.
    """
    every = sorted(set(tools))
    names = {key: _plain(key, prefixes) for key in every}
    first = Counter(names.values())
    names = {key: qualified(*key) if first[name] > 1 else name for key, name in names.items()}
    for _ in range(_ROUNDS):
        known = Counter(names.values())
        names = {key: _digested(name, key) if known[name] > 1 else name for key, name in names.items()}
    return names


def qualified(server: str, tool: str) -> str:
    """`SERVER__TOOL`, within what a name may be."""
    return _fitting(f"{server}__{tool}", (server, tool))


def _plain(key: tuple[str, str], prefixes: Mapping[str, str]) -> str:
    server, tool = key
    return qualified(prefixes[server], tool) if server in prefixes else _fitting(tool, key)


def _fitting(name: str, key: tuple[str, str]) -> str:
    valid = _FOREIGN.sub("_", name)
    return valid if 0 < len(valid) <= LONGEST else _digested(valid, key)


def _digested(name: str, key: tuple[str, str]) -> str:
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:8]
    return f"{name[: LONGEST - 9]}_{digest}"
