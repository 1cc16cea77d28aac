"""Lets the model roll dice. This file says what the plugin adds; what it does is in the others."""

from collections.abc import Iterable

import attrs
from attrs import validators

from chatcore.errors import ToolFailed
from chatcore.hooks import Plugin, hookimpl
from chatcore.settings import option
from chatcore.tools import Tool
from chatcore_plugin_template.dice import throw


@attrs.frozen
class Settings:
    """What a user can write under `[plugins.plugin-template]` in chatcore.toml."""

    most: int = option(100, help="The most dice in one throw.", validator=validators.ge(1))


class Template(Plugin[Settings]):
    """Lets the model roll dice."""

    settings_class = Settings

    @hookimpl
    def register_tools(self) -> Iterable[Tool]:
        # Two plugins must not give a tool the same name, so it begins with the plugin's own.
        yield Tool.of(self.roll_dice, name="plugin_template_roll_dice", read_only=True)

    async def roll_dice(self, count: int = 1, sides: int = 6) -> str:
        """Roll dice and add them up.

        Args:
            count: how many dice.
            sides: how many sides each has.
        """
        if count > self.settings.most:
            raise ToolFailed(f"at most {self.settings.most} dice in one throw")
        try:
            faces = throw(count, sides)
        except ValueError as error:
            raise ToolFailed(str(error)) from error
        return f"{' + '.join(map(str, faces))} = {sum(faces)}"
