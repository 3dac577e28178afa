"""The printed forms of a status; no server."""

from __future__ import annotations

import orjson
import pytest

from replicator.model import TableName
from replicator.status import PipelineStatus, build_lines, print_status
from replicator.tablestate import Counts, Found, State, TableState

TABLE = TableState(
    source=TableName("erp", "orders"),
    target="orders",
    state=State.PAUSED,
    found=Found.MISSING,
    rows_at_start=0,
    position=None,
    rows_loaded=12,
    applied=Counts(3, 2, 1),
    error="ALTER TABLE\norders DROP x",
    schema=None,
    updated_at="2026-01-01 00:00:00.000000",
)
STATUS = PipelineStatus("shop", state="paused", position="gtid:a:1-5;server=x", conflicts=2, tables=(TABLE,))


def test_json_has_the_promised_keys(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(STATUS, as_json=True)
    answer = orjson.loads(capsys.readouterr().out)
    promised = {
        "pipeline",
        "state",
        "position",
        "lag_seconds",
        "journal_bytes",
        "conflicts",
        "tables",
        "torn",
    }
    assert promised <= answer.keys()
    assert (answer["journal_bytes"], answer["conflicts"], answer["torn"]) == (0, 2, False)
    (table,) = answer["tables"]
    assert {"source", "target", "state", "rows_loaded", "applied", "error"} <= table.keys()
    assert table["applied"] == {"insert": 3, "update": 2, "delete": 1}
    assert table["source"] == "erp.orders"


def test_a_pipeline_that_never_started_is_idle() -> None:
    answer = PipelineStatus("shop").to_json()
    assert (answer["state"], answer["position"], answer["tables"]) == ("idle", None, [])


def test_lines_are_greppable(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(STATUS, as_json=False)
    printed = capsys.readouterr().out.splitlines()
    assert printed == build_lines(STATUS)
    assert len(printed) == 2
    for line in printed:
        pairs = dict(part.split("=", 1) for part in line.split(" "))
        assert pairs["pipeline"] == "shop"
        assert pairs["state"] == "paused"
    assert "lag=-" in printed[0]
    assert "snapshot=-" in printed[0]
    assert "error=ALTER_TABLE_orders_DROP_x" in printed[1]
