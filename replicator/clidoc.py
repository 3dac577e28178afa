"""The reference page of the commands, made from the commands themselves: `python -m replicator.clidoc`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from replicator.cli import app

REFERENCE = "docs/reference/cli.md"

_INTRODUCTION = """\
# Commands

<!-- Made by `python -m replicator.clidoc`; edit the docstrings in replicator/cli.py instead. -->

`FILE` is a [pipeline file](configuration.md). Results go to standard output, the log and errors to standard error. On a
terminal `run` and `load` show a live table; elsewhere they print one line of `key=value` at each change of state and every
ten seconds. SIGTERM and Ctrl-C finish the batch in flight and end with 0; a second Ctrl-C ends at once, and loses nothing
either.

| exit code | meaning |
|---|---|
| 0 | done |
| 2 | the command line or the pipeline file cannot be used |
| 3 | a check failed, or the demo's servers cannot be had |
| 4 | the source cannot be read, and waiting will not help |
| 5 | the target refused something, and waiting will not help; or a newer process has taken over |
| 6 | stopped in order, with tables paused |
| 7 | differences were found |
| 70 | a bug; please report it |
| 130 | interrupted |
"""


def render_reference() -> str:
    """The page as Markdown."""
    root: Any = get_command(app)
    return "\n".join([_INTRODUCTION, *(_render_command(command) for command in root.commands.values())])


def _render_command(command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    parts = [f"replicator {command.name}"]
    parts += [f"[{option.opts[0]}]" for option in options]
    parts += [
        f"{argument.name.upper().rstrip('S')}{'…' if argument.nargs == -1 else ''}" for argument in arguments
    ]
    return "\n".join(
        [f"## {command.name}", "", f"`{' '.join(parts)}`", "", command.help, "", *_render_options(options)]
    )


def _render_options(options: list[Any]) -> Iterator[str]:
    for option in options:
        yield f"- `{option.opts[0]}`: {option.help}"
    if options:
        yield ""


def write(root: Path) -> None:
    """Write the page under a checkout's root."""
    (root / REFERENCE).write_text(render_reference(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
