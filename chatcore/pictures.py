"""Images as servers give them: where in a content part one is, and of what type its bytes are."""

import re
from collections.abc import Iterator

import attrs

_IN_BASE64 = frozenset({"b64_json", "image_base64", "image_b64", "base64", "image_bytes", "image_data", "data"})
_IN_URLS = frozenset({"url", "image_url"})
_DEPTH = 4  # levels of a part, such as {"image": {"source": {"data": …}}}

_DATA_URI = re.compile(r"data:image/[\w.+-]{1,40};base64,", re.IGNORECASE)
_WHOLE = r"data:image/[\w.+-]{1,40};base64,([A-Za-z0-9+/=]+)"
_IN_TEXT = re.compile(rf"!\[([^\]\n]{{0,300}})\]\({_WHOLE}\)|{_WHOLE}", re.IGNORECASE)

_BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
_BRANDS = {  # of files in ISO boxes
    **dict.fromkeys((b"avif", b"avis"), "image/avif"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"mif1"), "image/heic"),
}


def source_of(part: object) -> str | None:
    """The image of a content part: an http URL, or else base64. None if there is nothing that could be one."""
    return min(_sources(part, "", _DEPTH), key=is_url, default=None)


def is_url(source: str) -> bool:
    """Whether it is a URL and not base64."""
    return source.startswith(("http://", "https://"))


def _sources(value: object, key: str, depth: int) -> Iterator[str]:
    match value:
        case str():
            head = _DATA_URI.match(value)
            if head is not None:
                yield value[head.end() :]
            elif key in _IN_BASE64 or (key in _IN_URLS and is_url(value)):
                yield value
        case dict() if depth:
            for name, item in value.items():
                yield from _sources(item, name, depth - 1)
        case list() | tuple() if depth:
            for item in value:
                yield from _sources(item, key, depth - 1)


@attrs.frozen
class InText:
    """An image that stands in a text as a data URI, alone or as Markdown has it. `whole` is what stands there."""

    whole: str
    name: str
    base64: str


def in_text(text: str) -> list[InText]:
    """The images in a text."""
    if "data:image/" not in text:
        return []
    return [InText(found[0], found[1] or "", found[2] or found[3]) for found in _IN_TEXT.finditer(text)]


def media_type_of(data: bytes) -> str | None:
    """The type of an image, by its bytes; None if it is none that a browser shows."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[:2] == b"BM" and int.from_bytes(data[2:6], "little") == len(data):
        return "image/bmp"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12])
    return next((media_type for beginning, media_type in _BEGINNINGS if data.startswith(beginning)), None)
