"""Images as servers give them (chatcore/pictures.py)."""

import base64

import pytest

from chatcore.pictures import in_text, is_url, media_type_of, source_of

BYTES = b"\x89PNG\r\n\x1a\n" + bytes(40)
CODE = base64.b64encode(BYTES).decode()
URI = f"data:image/png;base64,{CODE}"
ELSEWHERE = "https://images.example.com/cat.png"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": URI}},
        {"type": "image_url", "image_url": URI},
        {"type": "image_url", "image_url": {"url": URI.replace("data:image/png", "DATA:image/PNG")}},
        {"type": "image_url", "image_url": {"b64_json": CODE}},
        {"type": "image", "b64_json": CODE},
        {"type": "output_image", "image_base64": CODE},
        {"type": "output_image", "image_b64": CODE},
        {"type": "image", "base64": CODE},
        {"type": "image", "image_bytes": CODE},
        {"type": "image", "image_data": {"data": CODE}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": CODE}},
        {"type": "image", "images": [{"url": ELSEWHERE}, {"b64_json": CODE}]},
    ],
)
def test_an_image_is_found_under_every_name_that_servers_have(part: dict[str, object]) -> None:
    """Base64 and data URIs, however deep; they count before URLs."""
    assert source_of(part) == CODE


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ({"type": "image_url", "image_url": {"url": ELSEWHERE}}, ELSEWHERE),
        ({"type": "image", "url": ELSEWHERE}, ELSEWHERE),
        ({"type": "image_url", "image_url": {"url": "/api/blobs/x"}}, None),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, None),
        ({"type": "file", "file": {"name": ELSEWHERE}}, None),
        ({"type": "image_url", "image_url": None}, None),
    ],
)
def test_a_url_is_one_of_the_web(part: dict[str, object], source: str | None) -> None:
    """Under a name of URLs only; a path of this server or of its disk is none."""
    assert source_of(part) == source
    assert source is None or is_url(source)


def test_images_in_a_text() -> None:
    """As Markdown has them, with their name, and alone; other links stay."""
    text = f"Here: ![a cat]({URI}) and {URI}. Not ![this]({ELSEWHERE}), nor data:image/png alone."
    first, second = in_text(text)
    assert (first.whole, first.name, first.base64) == (f"![a cat]({URI})", "a cat", CODE)
    assert (second.whole, second.name, second.base64) == (URI, "", CODE)
    assert in_text(text.replace("data:image/", "data:text/")) == []


def test_a_long_text_takes_no_long_time() -> None:
    """A text that nearly is an image, over and over, is read once."""
    assert in_text("![a](data:image/png;base64," * 20_000) == []
    assert in_text("data:image/png;base64," + "A" * 1_000_000 + "]") != []


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (BYTES, "image/png"),
        (b"\xff\xd8\xff\xe0....", "image/jpeg"),
        (b"GIF89a....", "image/gif"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp"),
        (b"\0\0\0\x20ftypavif....", "image/avif"),
        (b"\0\0\0\x20ftypheic....", "image/heic"),
        (b"BM\x0a\0\0\0....", "image/bmp"),
        (b"BM is how this text begins", None),
        (b"\0\0\0\x20ftypisom....", None),
        (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", None),
        (b"", None),
    ],
)
def test_the_type_is_what_the_bytes_say(data: bytes, media_type: str | None) -> None:
    """Whatever somebody has called them; nothing that could run a script is an image."""
    assert media_type_of(data) == media_type
