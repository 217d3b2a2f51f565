"""The command line: `stackmesh`, or `python -m stackmesh`."""

import os

from stackmesh.cli.app import app


def main() -> None:
    app(prog_name="stackmesh", obj=os.environ)


if __name__ == "__main__":
    main()
