"""Pictures: what they are, and those that come in a URL."""

from __future__ import annotations

import base64
from urllib.parse import quote_from_bytes

import pytest

from services.inference import images
from stackmesh.common.v1.content_pb2 import Image
from stackmesh.errors import InvalidField, Unsupported

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
ENCODED = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    ("data", "mime_type"),
    [(PNG, "image/png"), (b"\xff\xd8\xff\xe0", "image/jpeg"), (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp")],
)
def test_its_first_bytes_say_what_it_is(data: bytes, mime_type: str) -> None:
    assert images.mime_type(data) == mime_type


@pytest.mark.parametrize(
    "image",
    [
        Image(data=PNG),
        Image(uri=f"data:image/png;base64,{ENCODED}"),
        Image(uri=f"DATA:image/png;charset=x;BASE64,{ENCODED}"),
        Image(uri=f"data:;base64,{ENCODED.replace('+', '%2B').replace('/', '%2F').replace('=', '%3D')}"),
        Image(uri=f"data:image/png,{quote_from_bytes(PNG)}"),
    ],
)
def test_a_picture_by_value(image: Image) -> None:
    assert images.by_value(image, "it") == PNG


@pytest.mark.parametrize("uri", ["https://example.com/cat.png", "http://h/c", "file:///etc/passwd", "cat.png", ""])
def test_a_picture_elsewhere_is_unsupported(uri: str) -> None:
    with pytest.raises(Unsupported, match="it takes an image by value only"):
        images.by_value(Image(uri=uri), "it")


@pytest.mark.parametrize(
    "image",
    [
        Image(data=b"GIF89a"),
        Image(data=b""),
        Image(uri="data:image/png;base64"),
        Image(uri="data:image/png;base64,secret!"),
        Image(uri="data:image/png;base64,iVBOR"),
        Image(uri=f"data:image/png,{ENCODED}"),
    ],
)
def test_what_is_no_picture_is_refused_and_not_shown(image: Image) -> None:
    with pytest.raises(InvalidField) as caught:
        images.by_value(image, "it")
    assert "secret" not in caught.value.message
