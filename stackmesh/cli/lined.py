"""YAML whose values know their lines, for messages about them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import yaml

from stackmesh.config import ConfigError

_LAST: Final = re.compile(r"(\.[^.\[]*|\[[^\[\]]*\])$")


@dataclass(frozen=True, slots=True)
class Lines:
    """Where things stand in a file."""

    name: str
    numbers: Mapping[str, int]
    """By path: `models[3].provider_id`."""

    def at(self, path: str) -> str:
        """`file:line` of what is there, or of the nearest thing around it."""
        while path not in self.numbers:
            shorter = _LAST.sub("", path)
            if shorter in ("", path):
                return self.name
            path = shorter
        return f"{self.name}:{self.numbers[path]}"


def parse(name: str, text: str) -> tuple[dict[str, Any], Lines]:
    """The mapping a file holds. Raises ConfigError, as stackmesh.config does."""
    loader: Any = (yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader)(text)
    numbers: dict[str, int] = {}
    try:
        node: yaml.Node | None = loader.get_single_node()
        if node is not None:
            _walk(node, "", numbers, set())
        tree: object = None if node is None else loader.construct_document(node)
    except RecursionError:
        raise ConfigError(f"{name}: is nested too deeply, or contains itself") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{name}{where}: not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
    except ValueError as error:  # 2026-99-99 looks like a date
        raise ConfigError(f"{name}: not YAML: {error}; put text in quotes") from None
    finally:
        loader.dispose()
    if not isinstance(tree, dict):
        raise ConfigError(f"{name}: must be a mapping that begins with `version: 1`")
    return cast("dict[str, Any]", tree), Lines(name, numbers)


def _walk(node: yaml.Node, path: str, numbers: dict[str, int], seen: set[int]) -> None:
    """Notes the lines; refuses a key that is there twice, which YAML forbids and PyYAML accepts."""
    if id(node) in seen:  # an alias: its lines are those of what it repeats
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            at = f"{path}[{index}]"
            numbers[at] = item.start_mark.line + 1
            _walk(item, at, numbers, seen)
    elif isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys and key.tag != "tag:yaml.org,2002:merge":
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
                keys.add(key.value)
            at = f"{path}.{key.value}".removeprefix(".")
            numbers[at] = key.start_mark.line + 1
            _walk(value, at, numbers, seen)
