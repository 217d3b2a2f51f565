"""Measures what the mesh costs, and prints it.

    python -m benchmarks.run gateway          a table for people
    python -m benchmarks.run model --json     one line of JSON, the last on stdout; its keys are flat and stable
    python -m benchmarks.run registry --store etcd
    python -m benchmarks.run adapter --litellm /tmp/litellm

Each ends within a minute, registry and a comparison with LiteLLM within some; --full measures more and takes longer.
How far it is goes to stderr. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

import grpc
from rich.console import Console
from rich.status import Status
from rich.table import Table

from benchmarks import adapter, gateway, model, registry
from benchmarks.plan import Plan, Result
from benchmarks.processes import BenchmarkError


class Benchmark(Protocol):
    """A module that measures something."""

    __doc__: str | None

    @property
    def KEYS(self) -> Mapping[str, str]:  # noqa: N802 -- a constant of the module
        """Every key that the result may have, and what it means."""
        ...

    @property
    def PLAN(self) -> Plan: ...  # noqa: N802 -- as above

    @property
    def FULL_PLAN(self) -> Plan: ...  # noqa: N802 -- as above

    @property
    def CHOICES(self) -> Mapping[str, Sequence[str]]: ...  # noqa: N802 -- what of a plan users choose; the first is it

    @property
    def VENVS(self) -> Mapping[str, str]: ...  # noqa: N802 -- virtual environments of others, and what for

    @staticmethod
    async def measure(plan: Plan, folder: Path) -> Result: ...


BENCHMARKS: Final[Mapping[str, Benchmark]] = {
    "gateway": gateway,
    "model": model,
    "registry": registry,
    "adapter": adapter,
}

_SIZES: Final = {"rounds": int, "seconds": float, "samples": int, "tokens": int}
"""What of a plan can be said on the command line, for a test that has no minute."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    benchmark = BENCHMARKS[options.benchmark]
    plan = benchmark.FULL_PLAN if options.full else benchmark.PLAN
    plan = plan.but(**{name: getattr(options, name) for name in (*_SIZES, *benchmark.CHOICES, *benchmark.VENVS)})
    progress = Console(stderr=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with progress.status("starting") as status:
            result = asyncio.run(_measure(benchmark, replace(plan, say=_teller(progress, status))))
    except BenchmarkError as error:
        print(f"benchmarks.run {options.benchmark}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for other in benchmark.VENVS:
        if getattr(plan, other) is None:
            print(f"not compared with {other}: --{other} names no virtual environment", file=sys.stderr)
    result = {key: result[key] for key in benchmark.KEYS if key in result}  # whatever was measured first
    if options.json:
        print(json.dumps(result))
    else:
        _print_table(options.benchmark, result, benchmark.KEYS)
    return 0


def _interrupt(_signal: int, _frame: object) -> None:
    signal.raise_signal(signal.SIGINT)  # which asyncio turns into an end that leaves no process behind


async def _measure(benchmark: Benchmark, plan: Plan) -> Result:
    with tempfile.TemporaryDirectory(prefix="stackmesh-bench-") as folder:
        try:
            async with asyncio.timeout(plan.limit):
                return await benchmark.measure(plan, Path(folder))
        except TimeoutError:
            raise BenchmarkError(f"did not end within {plan.limit:.0f} s; is the machine busy? try --full") from None
        except grpc.aio.AioRpcError as error:
            raise BenchmarkError(f"a call failed: {error.code().name}: {error.details()}") from None


def _teller(console: Console, status: Status) -> Callable[[str], None]:
    """Shows how far it is: a terminal sees a line that changes, a log one line after the other."""

    def say(text: str) -> None:
        if console.is_terminal:
            status.update(text)
        else:
            console.print(text)

    return say


def _print_table(name: str, result: Result, keys: Mapping[str, str]) -> None:
    table = Table(title=f"benchmark: {name}", title_justify="left")
    table.add_column("key", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("meaning")
    for key, value in result.items():
        table.add_row(key, str(value), keys[key])
    Console().print(table)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__, formatter_class=formatter)
    kinds = parser.add_subparsers(dest="benchmark", required=True, metavar="|".join(BENCHMARKS))
    for name, benchmark in BENCHMARKS.items():
        text = (benchmark.__doc__ or "").strip()
        kind = kinds.add_parser(
            name,
            help=text.partition("\n")[0],
            description=text,
            epilog="\n".join(["keys of the result:", *(f"  {k:25} {v}" for k, v in benchmark.KEYS.items())]),
            formatter_class=formatter,
        )
        kind.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")
        kind.add_argument("--full", action="store_true", help="measure for minutes, not for one")
        for choice, values in benchmark.CHOICES.items():
            kind.add_argument(f"--{choice}", choices=values, default=values[0], help="default: %(default)s")
        for other, purpose in benchmark.VENVS.items():
            kind.add_argument(f"--{other}", type=Path, metavar="VENV", help=purpose)
        for size, of in _SIZES.items():
            kind.add_argument(f"--{size}", type=of, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
