from __future__ import annotations

import struct
from pathlib import Path

import pytest

from services.inference.llamacpp.gguf import texts


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def array(kind: int, count: int, values: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + values


def gguf(*pairs: tuple[str, int, bytes]) -> bytes:
    """A file without weights. A pair: key, number of the type, value."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, 0, len(pairs))
    return head + b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in pairs)


NUMBERS = [(f"number-{kind}", kind, b"\7" * size) for kind, size in enumerate([1, 1, 2, 2, 4, 4, 4, 1])]
WIDE = [(f"wide-{kind}", kind, b"\7" * 8) for kind in (10, 11, 12)]
LISTS = [("tokens", 9, array(8, 3, text("a") + text("") + text("日本"))), ("scores", 9, array(6, 2, b"\7" * 8))]
FILE = gguf(("first", 8, text("é")), *NUMBERS, *WIDE, *LISTS, ("last", 8, text("the end")))


def written(folder: Path, data: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(data)
    return path


def test_texts_are_found_among_all_types(tmp_path: Path) -> None:
    assert texts(written(tmp_path, FILE + b"weights")) == {"first": "é", "last": "the end"}


def test_of_a_file_that_is_cut_off_nothing_is_read(tmp_path: Path) -> None:
    for length in range(len(FILE)):
        assert texts(written(tmp_path, FILE[:length])) == {}


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        FILE.replace(b"GGUF", b"GGML"),
        gguf(("odd", 13, b"")),
        gguf(("nested", 9, array(9, 1, array(0, 1, b"\0")))),
        gguf(("bytes", 8, struct.pack("<Q", 1) + b"\xff")),
        gguf(("huge", 9, array(8, 2**62, b"")), ("last", 8, text("a"))),
    ],
)
def test_what_makes_no_sense_has_no_texts(tmp_path: Path, data: bytes) -> None:
    assert texts(written(tmp_path, data)) == {}
