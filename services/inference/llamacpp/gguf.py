"""The head of a GGUF file: what it says about its model before the weights.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md describes it.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

_HEAD: Final = struct.Struct("<4sIQQ")
"""Magic, version, number of tensors, number of key-value pairs."""
_SIZES: Final[Mapping[int, int]] = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by the number of its type."""
_TEXT, _ARRAY = 8, 9


def texts(path: Path) -> dict[str, str]:
    """Its values that are text, by key. Nothing of what is no GGUF: llama.cpp will say so.

    15 ms with a vocabulary of 50,000 tokens, which have to be stepped over.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return dict(_texts(data))
    except (ValueError, struct.error):
        return {}


def _texts(data: mmap.mmap) -> Iterator[tuple[str, str]]:
    magic, _, _, count = _HEAD.unpack_from(data)
    if magic != b"GGUF":
        raise ValueError("not a GGUF file")
    at = _HEAD.size
    for _ in range(count):
        key, at = _text(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        at += 4
        if kind == _TEXT:
            value, at = _text(data, at)
            yield key, value
        else:
            at = _after(data, at, kind)


def _text(data: mmap.mmap, at: int) -> tuple[str, int]:
    end = _after(data, at, _TEXT)
    if end > len(data):
        raise ValueError("ends in the middle of a text")
    return data[at + 8 : end].decode(), end


def _after(data: mmap.mmap, at: int, kind: int) -> int:
    """Where the value ends that begins at `at`."""
    if kind == _TEXT:
        (length,) = struct.unpack_from("<Q", data, at)
        return at + 8 + length
    if kind != _ARRAY:
        if kind not in _SIZES:
            raise ValueError(f"no type {kind}")
        return at + _SIZES[kind]
    kind, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if kind == _ARRAY:
        raise ValueError("llama.cpp knows no arrays of arrays")
    if kind in _SIZES:
        return at + count * _SIZES[kind]
    for _ in range(count):
        at = _after(data, at, kind)
    return at
