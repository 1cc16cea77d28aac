"""`chatcore openrouter`: what OpenRouter says of the key and of a model's servers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from chatcore.errors import ChatcoreError
from chatcore_openrouter.provider import OpenRouterProvider

T = TypeVar("T")


def make_group(provider: Callable[[], OpenRouterProvider]) -> click.Group:
    """The command. `provider` is called when one of its commands is."""

    @click.group("openrouter")
    def group() -> None:
        """The account and the models at OpenRouter."""

    @group.command("key")
    def key_command() -> None:
        """Show what the key may spend, and what it has."""
        key = _ask(provider, lambda asked: asked.key())
        limit = "no limit" if key.get("limit") is None else f"${_amount(key['limit'], 2)}"
        click.echo(f"{key.get('label')}: ${_amount(key.get('usage') or 0, 4)} used, {limit}")

    @group.command("endpoints")
    @click.argument("model", metavar="AUTHOR/SLUG")
    def endpoints_command(model: str) -> None:
        """List the servers that run a model, with their prices in US dollars for a million tokens."""
        for endpoint in _ask(provider, lambda asked: asked.endpoints(model)):
            prices = endpoint.get("pricing") or {}
            click.echo(
                f"{endpoint.get('provider_name') or '?':<20} {endpoint.get('context_length') or '':>9}"
                f" {_million(prices.get('prompt')):>9} in {_million(prices.get('completion')):>9} out"
            )

    return group


def _ask(provider: Callable[[], OpenRouterProvider], question: Callable[[OpenRouterProvider], Awaitable[T]]) -> T:
    async def ask() -> T:
        async with provider().session() as asked:
            return await question(asked)

    try:
        return asyncio.run(ask())
    except ChatcoreError as error:
        raise click.ClickException("\n".join(filter(None, (error.message, error.hint)))) from error


def _million(price: Any) -> str:
    """A price for one token for a million of them. That of a router is -1: it is the chosen model's."""
    return "varies" if str(price) == "-1" else _amount(price, 2, times=1_000_000)


def _amount(value: Any, digits: int, *, times: int = 1) -> str:
    """US dollars, which OpenRouter writes as a number or as decimal text."""
    try:
        return f"{float(value) * times:.{digits}f}"
    except (TypeError, ValueError):
        return "?"
