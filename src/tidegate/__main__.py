"""``python -m tidegate``: the command line."""

from __future__ import annotations

from tidegate.proxy.cli.app import app

if __name__ == "__main__":
    app(prog_name="python -m tidegate")
