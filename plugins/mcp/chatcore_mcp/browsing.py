"""Where a model has a browser, it is to look at pages with that, and not by a shell command such as curl.

This leads a model that means well; it stops none that does not. A command can fetch a page in more ways than anybody
could name.
"""

import ipaddress
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import urlsplit

import attrs

from chatcore.tools import Invocation, Tool, ToolResult

_SHELLS = frozenset({"shell_execute", "shell_session"})
_BROWSER = "browser_"
_FETCHING = frozenset({"curl", "wget", "http", "https", "httpie", "lynx", "w3m", "links"})
_WRAPPERS = frozenset({"sudo", "env", "exec", "command", "nohup", "time", "xargs", "then", "do", "else", "if", "while"})
_INNER = frozenset({"sh", "bash", "dash", "zsh", "ksh", "eval"})
"""Programs that are given further commands as a text."""
_LONGEST = 4_000
"""Characters of a command that are looked at."""

_OPERATOR = re.compile(r"[();<>|&\n{}!$]+")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_NO_VALUE = re.compile(r"-[#0-9fgiIkLqsSvNj]+|--(?:location|silent|insecure|head|fail|compressed|verbose|quiet)")
"""Options of these programs that are not followed by a value of their own."""
_HOST = re.compile(r"(?:[\w-]+\.)+[A-Za-z]{2,}(?::\d+)?(?:[/?].*)?", re.DOTALL)
_LOCAL_NAMES = (".localhost", ".local", ".internal", ".lan", ".home.arpa")


def led(tools: Mapping[str, Tool], names: Mapping[str, str]) -> Mapping[str, Tool]:
    """The tools of a turn; if there is a browser among them, with shells that refuse to fetch pages from elsewhere.

    `names` are the own names of the servers' tools, by those of the turn.
    """
    browsers = [name for name in tools if names.get(name, name).startswith(_BROWSER)]
    shells = [name for name in tools if names.get(name) in _SHELLS]
    if not browsers or not shells:
        return tools
    return {**tools, **{name: _refusing(tools[name], browsers) for name in shells}}


def _refusing(shell: Tool, browsers: Sequence[str]) -> Tool:
    async def run(invocation: Invocation) -> ToolResult:
        command = invocation.arguments.get("command")
        found = fetched(command) if isinstance(command, str) else None
        if found is None:
            return await shell.run(invocation)
        program, url = found
        text = (
            f"This command was not run: it would fetch {url[:200]} by {program}. For what is not on this machine or in "
            f"its network use the browser: {', '.join(sorted(browsers)[:20])}."
        )
        return ToolResult(text, True)

    return attrs.evolve(shell, run=run)


def fetched(command: str) -> tuple[str, str] | None:
    """The program by which a command fetches something that is not local, and what; None if it does not."""
    return next(_fetches(command[:_LONGEST], depth=3), None)


def _fetches(command: str, depth: int) -> Iterator[tuple[str, str]]:
    for program, arguments in map(_called, _simple(command)):
        if program in _FETCHING:
            yield from ((program, url) for url in _urls(arguments) if not _is_local(url))
        for argument in arguments if depth else ():
            if program in _INNER or "$(" in argument:
                yield from _fetches(argument, depth - 1)


def _simple(command: str) -> Iterator[Sequence[str]]:
    """The simple commands that a shell's command is made of, each in words."""
    lexer = shlex.shlex(command.replace("`", "\n"), posix=True, punctuation_chars="();<>|&\n{}!$")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    words: list[str] = []
    try:
        for word in lexer:
            if _OPERATOR.fullmatch(word):
                yield words
                words = []
            else:
                words.append(word)
    except ValueError:  # a quotation that does not end: the shell will say so
        pass
    yield words


def _called(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The program that a simple command runs in the end, and its arguments."""
    wrapped = False
    for place, word in enumerate(words):
        name = word.rpartition("/")[2]
        if name in _WRAPPERS:
            wrapped = True
        elif not _ASSIGNMENT.match(word) and not (wrapped and word.startswith("-")):
            return name, words[place + 1 :]
    return "", ()


def _urls(arguments: Sequence[str]) -> Iterable[str]:
    """What a fetching program is given to fetch: URLs, or names of hosts that stand for themselves."""
    urls = [word for word in arguments if re.match(r"https?://|ftp://", word, re.IGNORECASE)]
    before = ["", *arguments]
    bare = [
        word
        for word, last in zip(arguments, before, strict=False)
        if _HOST.fullmatch(word) and (not last.startswith("-") or _NO_VALUE.fullmatch(last))
    ]
    return urls or bare


def _is_local(url: str) -> bool:
    """Whether a URL is of this machine, or of the network that it is in."""
    try:
        host = urlsplit(url if "://" in url else f"http://{url}").hostname or ""
    except ValueError:
        return False
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(_LOCAL_NAMES)
