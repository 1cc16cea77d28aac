"""Cannot be made."""

from chatcore.hooks import NoSettings, Plugin


class RaisesInInit(Plugin[NoSettings]):
    """Raises when it is made."""

    def __init__(self, context):
        super().__init__(context)
        raise LookupError("nothing to find")
