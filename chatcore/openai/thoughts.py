"""Where servers have a model's thoughts and want them back, if not in `reasoning` or `reasoning_details`.

Servers refuse what they do not know: Groq `reasoning_content`, Mistral that and `reasoning`, too
(https://github.com/BerriAI/litellm/issues/30835, https://github.com/co-l/openfox/issues/220). So what came in one of
these places is marked, and only who gave it gets it back.
"""

import json

from chatcore import wire

CONTENT = "reasoning_content"
"""A field of the message at DeepSeek, Moonshot, Z.ai, SGLang, llama.cpp and LM Studio.

DeepSeek wants it back in every answer of a conversation with tools, also an empty one, and refuses the request without
(https://api-docs.deepseek.com/guides/thinking_mode, https://github.com/vercel/ai/pull/14740,
https://github.com/MoonshotAI/kimi-cli/issues/2141), as Moonshot does beside tool calls
(https://github.com/anomalyco/opencode/issues/10996). llama.cpp takes what its template has use for
(https://github.com/ggml-org/llama.cpp/pull/18994). vLLM has said `reasoning` since 0.16
(https://github.com/vllm-project/vllm/pull/33402).
"""

PART = "thinking"
"""A part of the content at Mistral, who wants it back in every answer
(https://www.npmjs.com/package/@mistralai/mistralai, examples/src/reasoning_multi_turn.ts)."""


EXTRA = "extra_content"
"""A field of a tool call at Google's, with a signature of the thoughts before it. It refuses the call without
(https://github.com/earendil-works/pi/issues/6733)."""


def mark_of(provider: str, place: str) -> str:
    """What is noted of reasoning that a provider's server gave in a place of its own."""
    return f"{provider}/{place}"


def mark_with(provider: str, extra: object) -> str:
    """The mark of a tool call: what came with it, and is to go back with it."""
    return mark_of(provider, wire.dumps(extra).decode())


def extra_of(provider: str, mark: str) -> object:
    """What a provider is to be given back with a tool call; None if there is nothing."""
    owner = mark_of(provider, "")
    return json.loads(mark.removeprefix(owner)) if mark.startswith(owner) and mark != owner else None
