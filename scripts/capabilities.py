"""The README's table of what each provider can do, made from services/inference/capabilities.yaml.

python -m scripts.capabilities write     puts it between the marks in README.md
python -m scripts.capabilities check     says whether it is there as it should be; `make lint` runs this
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from services.inference.capabilities import Capabilities, capabilities

README: Final = Path(__file__).parent.parent / "README.md"
BEGIN: Final = "<!-- made by: python -m scripts.capabilities write -->"
END: Final = "<!-- end -->"


def table(found: Capabilities) -> str:
    """In Markdown: a row a capability, a column a provider type, a numbered reason for each gap."""
    kinds = sorted(found.providers)
    reasons: list[str] = []

    def cell(kind: str, name: str) -> str:
        if (reason := found.gaps(kind).get(name)) is None:
            return "yes"
        if reason not in reasons:
            reasons.append(reason)
        return f"no ({reasons.index(reason) + 1})"

    def lines() -> Iterator[str]:
        yield "| | " + " | ".join(f"`{kind}`" for kind in kinds) + " |"
        yield "|---|" + "---|" * len(kinds)
        for each in found.capabilities:
            yield f"| {each.title} | " + " | ".join(cell(kind, each.name) for kind in kinds) + " |"
        if reasons:
            yield ""
            yield "; ".join(f"({number}) {reason}" for number, reason in enumerate(reasons, 1)) + "."

    return "\n".join(lines())


def with_table(readme: str, made: str) -> str:
    """The README with that table between the marks."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"README.md lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def main(argv: list[str]) -> None:
    if argv not in (["write"], ["check"]):
        sys.exit(__doc__)
    found = capabilities()
    if problems := found.problems():
        sys.exit("services/inference/capabilities.yaml: " + "\n".join(problems))
    is_there = README.read_text(encoding="utf-8")
    should_be = with_table(is_there, table(found))
    if argv == ["write"]:
        README.write_text(should_be, encoding="utf-8")
    elif is_there != should_be:
        sys.exit("README.md: the table of capabilities is out of date: run python -m scripts.capabilities write")


if __name__ == "__main__":
    main(sys.argv[1:])
