"""chatcore plugin: a local language model in the server's own process, by llama.cpp."""

from collections.abc import Iterable
from functools import cached_property

import click

from chatcore.hooks import Plugin, hookimpl
from chatcore.protocols import Lifespan, Provider
from chatcore_llama.command import make_group
from chatcore_llama.provider import LlamaProvider, make_provider
from chatcore_llama.settings import Settings


class Llama(Plugin[Settings]):
    """Runs a local model, without a key or a network."""

    settings_class = Settings

    @cached_property
    def provider(self) -> LlamaProvider:
        return make_provider(self.settings, self.context.directory, self.context.log)

    @hookimpl
    def register_commands(self) -> Iterable[click.Command]:
        yield make_group(self.settings, self.context.directory)

    @hookimpl
    def register_providers(self) -> Iterable[Provider]:
        yield self.provider

    @hookimpl
    def register_lifespans(self) -> Iterable[Lifespan]:
        yield Lifespan("model", self.provider.session)
