"""The flow has no back edges: readers know nothing of what comes after them, planning knows no driver (DESIGN §3, I5)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import replicator

PACKAGE = Path(replicator.__file__).parent
DRIVERS = {"pymysql", "pymysqlreplication", "psycopg", "socket", "ssl", "sqlalchemy"}
PURE = {
    "model",
    "errors",
    "plan",
    "sql",
    "ddl",
    "foreignkeys",
    "stream",
    "held",
    "parts",
    "slices",
    "spill",
    "jsonnumber",
    "lag",
    "line",
    "typemap",
}
PURE |= {"load.progress"}
BOTH_ENDS = {
    "pipeline",
    "startup",
    "runner",
    "check",
    "check.source",
    "check.target",
    "check.probe",
    "check.pgprobe",
    "preview",
}
SHARED_WITH_READERS = {
    "model",
    "errors",
    "config",
    "tls",
    "typemap",
    "spill",
    "readers",
    "jsonnumber",
    "patience",
    "stranger",
}


def modules() -> Iterator[tuple[str, set[str]]]:
    """Each module's name below the package, and what it imports: of ours as ``replicator.x``, else the top name."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module == "replicator":
                found |= {f"replicator.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
        yield name, found


def ours(imports: set[str]) -> set[str]:
    return {name.removeprefix("replicator.") for name in imports if name.startswith("replicator.")}


def top(imports: set[str]) -> set[str]:
    return {name.split(".")[0] for name in imports}


def is_pure(name: str) -> bool:
    return name in PURE or name.split(".", maxsplit=1)[0] in PURE


def test_readers_import_nothing_that_comes_after_them() -> None:
    for name, imports in modules():
        if name.startswith(("readers.", "typemap.")):
            later = top(ours(imports)) - SHARED_WITH_READERS
            assert not later, f"{name} imports {later}"


def test_what_is_pure_imports_no_driver_and_no_session() -> None:
    for name, imports in modules():
        if is_pure(name):
            assert not top(imports) & DRIVERS, name
            assert all(map(is_pure, ours(imports))), name


def test_the_model_imports_nothing_of_ours() -> None:
    assert {name: ours(imports) for name, imports in modules() if name == "model"} == {"model": set()}


def test_only_the_wiring_knows_both_ends() -> None:
    for name, imports in modules():
        mine = ours(imports)
        knows_source = any(
            i.startswith(("readers.mysql", "readers.postgres", "readers.opening")) for i in mine
        )
        knows_target = bool(mine & {"session", "apply", "checkpoint"})
        is_reader = name.startswith("readers.")
        if knows_source and not is_reader:
            assert name in BOTH_ENDS, f"{name} imports a reader"
        assert not (is_reader and knows_target), name


@pytest.mark.parametrize("module", ["runner", "check.report", "preview", "status"])
def test_a_start_imports_no_reader_before_it_knows_which(module: str) -> None:
    """Either product's driver and decoders take a fifth of the time that a start needs."""
    code = f"import sys, replicator.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"psycopg", "pymysqlreplication"} & set(done.stdout.split())
