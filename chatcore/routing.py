"""The rules by which an application finds the view of a request."""

import functools
from collections.abc import Callable

from quart.routing import QuartRule


class Rule(QuartRule):
    """A rule of which URLs can be built, too; how is compiled when the first is.

    werkzeug compiles that for every rule, in two forms, as soon as there is one. It takes longer than all the rest of
    registering routes, a tenth of the start, and nearly no route is ever built a URL of.
    """

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        compiled = functools.cache(super()._compile_builder)
        arguments = [name for is_argument, name in self._trace if is_argument]
        if self.defaults or len(set(arguments)) < len(arguments):
            compiled(append_unknown)  # it finds what is wrong with them, which is to be known when a plugin is loaded
        return lambda rule, /, **values: compiled(append_unknown)(rule, **values)
