"""The command line: parse, call, exit code; no logic."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import orjson
import typer

from replicator.errors import ReplicatorError

app = typer.Typer(
    name="replicator",
    help="Mirror on-premise MySQL, MariaDB and PostgreSQL tables into a cloud MySQL, change by change.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

File = Annotated[Path, typer.Argument(help="The pipeline file.", show_default=False)]
Files = Annotated[list[Path], typer.Argument(help="One or more pipeline files.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def check(files: Files, as_json: Json = False) -> None:
    """Try everything a run needs: file, network, TLS, accounts, server settings. Each check says how to mend it."""
    from replicator.check.report import check_files, print_report  # noqa: PLC0415 (each command imports what it needs)

    report = check_files(files)
    print_report(report, as_json=as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def plan(
    file: File, ddl: Annotated[bool, typer.Option("--ddl", help="Print the target's DDL only.")] = False
) -> None:
    """Say what a run would do: tables, target DDL, what could be lost, rows and bytes. Changes nothing."""
    from replicator.config import load  # noqa: PLC0415
    from replicator.preview import print_preview  # noqa: PLC0415

    print_preview(load(file), ddl_only=ddl)


@app.command()
def load(file: File) -> None:
    """Load what is not loaded yet, stream until all loaded tables are consistent, and end."""
    from replicator.runner import run_pipeline  # noqa: PLC0415

    raise typer.Exit(run_pipeline(file, until="loaded"))


@app.command()
def run(
    files: Files,
    until_current: Annotated[
        bool, typer.Option("--until-current", help="End once all that was committed at the start is applied.")
    ] = False,
) -> None:
    """Load what is missing, then mirror until stopped."""
    from replicator.pipeline import Until  # noqa: PLC0415
    from replicator.runner import run_pipeline, run_pipelines  # noqa: PLC0415

    until: Until = "current" if until_current else "stopped"
    if len(files) == 1:
        raise typer.Exit(run_pipeline(files[0], until=until))
    raise typer.Exit(run_pipelines(files, until=until))


@app.command()
def status(file: File, as_json: Json = False) -> None:
    """Show state, position, lag and counts, whether or not a run is under way."""
    from replicator.config import load as load_config  # noqa: PLC0415
    from replicator.status import print_status, read_status  # noqa: PLC0415

    print_status(read_status(load_config(file)), as_json=as_json)


@app.command()
def drop(file: File) -> None:
    """Forget the pipeline at the target: its checkpoint goes, its tables and their rows stay."""
    from replicator.config import load as load_config  # noqa: PLC0415
    from replicator.runner import drop_pipeline  # noqa: PLC0415

    typer.echo(drop_pipeline(load_config(file)))


@app.command()
def demo() -> None:
    """Mirror a small shop from throwaway local servers, with a kill on the way and a comparison at the end."""
    from replicator.demo import run_demo  # noqa: PLC0415

    raise typer.Exit(run_demo())


@app.command()
def schema() -> None:
    """Print the JSON Schema of the pipeline file."""
    from replicator.config.doc import json_schema  # noqa: PLC0415

    typer.echo(orjson.dumps(json_schema(), option=orjson.OPT_INDENT_2).decode())


def main() -> NoReturn:
    """Entry point: every error this program raises on purpose becomes its message and its exit code."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr, level=logging.INFO)
    sys.exit(_guard(app))


def _guard(command: Callable[[], None]) -> int:
    try:
        command()
    except ReplicatorError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0
