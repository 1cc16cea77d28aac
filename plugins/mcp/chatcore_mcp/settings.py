"""The settings of the plugin."""

from pathlib import Path
from typing import Any

import attrs
from attrs import validators

from chatcore.addresses import Reach, network
from chatcore.settings import option

_PORT = validators.optional([validators.ge(1), validators.le(65535)])


def _network(instance: object, field: "attrs.Attribute[Any]", value: str) -> None:
    network(value)


@attrs.frozen(kw_only=True)
class Settings:
    """What can be set in `[plugins.mcp]`."""

    servers: Path | None = option(
        None,
        env="MCP_SERVERS_PATH",
        help="The file of the servers; without it mcp_servers.json in the data directory.",
    )
    prefix: bool = option(
        False,
        env="CHATCORE_MCP_PREFIX",
        help="Call every tool SERVER__TOOL, not only where two servers have one of the same name.",
    )
    connect_timeout: float = option(
        30.0,
        env="CHATCORE_MCP_CONNECT_TIMEOUT",
        help="How many seconds a server may take to start and to tell its tools.",
        validator=validators.gt(0),
    )
    networks: tuple[str, ...] = option(
        ("127.0.0.0/8", "::1"),
        env="CHATCORE_MCP_NETWORKS",
        help="The networks, beside the public one, in which a server may be that is added over HTTP.",
        validator=validators.deep_iterable(_network),
    )
    port_start: int | None = option(
        None,
        env="MCP_PORT_START",
        help="The first port on which servers are looked for; without it that of mcp_ports.conf in the data directory, "
        "or 9001.",
        validator=_PORT,
    )
    port_end: int | None = option(
        None,
        env="MCP_PORT_END",
        help="The last port on which servers are looked for; without it that of mcp_ports.conf in the data directory, "
        "or 9017.",
        validator=_PORT,
    )
    share_tools: bool = option(
        False,
        env="CHATCORE_MCP_SHARE_TOOLS",
        help="Offer at /mcp the tools of all plugins and servers, too, but for those that need consent to a call.",
    )
    sessions: bool = option(
        True,
        env="CHATCORE_MCP_SESSIONS",
        help="Give clients of older revisions at /mcp a session. It lives in one worker: with several there are none.",
    )

    @property
    def reach(self) -> Reach:
        """Where the servers may be that are added over HTTP."""
        return Reach(tuple(map(network, self.networks)))
