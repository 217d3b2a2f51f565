"""Generate code and descriptors from protos/, and check that what is committed is what they give.

`generate` writes `stackmesh/<package>/v1/*_pb2*.py[i]` and `stackmesh/descriptors.binpb`; `check` runs buf (lint,
format, breaking against main) and compares a fresh generation with the tree, byte for byte.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
WELL_KNOWN = Path(protoc.__file__).parent / "_proto"


def generate(root: Path, out: Path) -> None:
    """Write what `root`/protos gives under `out`."""
    protos = root / "protos"
    files = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    (out / "stackmesh").mkdir(parents=True, exist_ok=True)
    args = [
        "protoc",
        f"-I{protos}",
        f"-I{WELL_KNOWN}",
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--mypy_grpc_out=quiet,only_async:{out}",
        "--include_imports",
        f"--descriptor_set_out={out / 'stackmesh' / 'descriptors.binpb'}",
        *files,
    ]
    if protoc.main(args) != 0:  # pyright: ignore[reportUnknownMemberType] -- untyped
        sys.exit("protoc failed")
    for file in files:
        stubs = (out / file).with_name(Path(file).stem + "_pb2_grpc.py")
        if "Stub" not in stubs.read_text():  # no service in it, nothing in them
            stubs.unlink()
            stubs.with_suffix(".pyi").unlink(missing_ok=True)
        for folder in ((out / file).parent, (out / file).parent.parent):
            (folder / "__init__.py").touch()


def stale(root: Path) -> list[str]:
    """The generated files of the checkout `root` that differ from a fresh generation."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(root, fresh)
        paths = [path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()]
        known = {path.relative_to(root) for path in (root / "stackmesh").glob("*/v1/*_pb2*.py*")}
        changed = [p for p in paths if _bytes(root / p) != _bytes(fresh / p)]
        return sorted(str(path) for path in [*changed, *(known - set(paths))])


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def breaking() -> None:
    """Compare with main's protos, unpacked beside ours."""
    archive = subprocess.run(["git", "archive", "main", "protos"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        print("buf breaking: there is no main to compare with yet")
        return
    base = ROOT / ".build" / "main"
    shutil.rmtree(base, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(base, filter="data")
    shutil.copy(ROOT / "buf.yaml", base)
    _run("buf", "breaking", "--against", str(base))


def check() -> None:
    _run("buf", "lint")
    _run("buf", "format", "--diff", "--exit-code")
    breaking()
    if files := stale(ROOT):
        sys.exit("not what protos/ gives (run `make proto`):\n  " + "\n  ".join(files))


def _run(*command: str) -> None:
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        sys.exit(f"{' '.join(command)}: failed")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["generate"]:
            generate(ROOT, ROOT)
        case ["check"]:
            check()
        case _:
            sys.exit("usage: python -m scripts.protos generate|check")
