"""chatcore plugin: the models of OpenRouter. This file says what it adds; what it does is in the others."""

from collections.abc import Iterable
from functools import cached_property

import click

from chatcore.hooks import Plugin, hookimpl
from chatcore.protocols import Lifespan, Provider
from chatcore_openrouter.command import make_group
from chatcore_openrouter.provider import OpenRouterProvider, make_provider
from chatcore_openrouter.settings import Settings


class OpenRouter(Plugin[Settings]):
    """Runs the models of OpenRouter, with a key of your own."""

    settings_class = Settings

    @cached_property
    def provider(self) -> OpenRouterProvider:
        return make_provider(self.settings)

    @hookimpl
    def register_providers(self) -> Iterable[Provider]:
        yield self.provider

    @hookimpl
    def register_lifespans(self) -> Iterable[Lifespan]:
        yield Lifespan("connections", self.provider.session)

    @hookimpl
    def register_commands(self) -> Iterable[click.Command]:
        yield make_group(lambda: self.provider)
