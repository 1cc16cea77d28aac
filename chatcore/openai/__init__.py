"""The OpenAI chat format, as servers speak it: `OpenAIProvider` is a provider for every one of them."""

from chatcore.http import Timeouts
from chatcore.openai.provider import OpenAIProvider, supports_tools

__all__ = ["OpenAIProvider", "Timeouts", "supports_tools"]
