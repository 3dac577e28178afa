"""Any value of a type, through a real server's log: the decoder gives what the server shows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicator.servers import Server
from tests.integration.test_rowcodec_server import assert_equal, fresh_database, schema_of, server_rows
from tests.rowlog import Log

DEFINITIONS = (
    "n BIGINT, u BIGINT UNSIGNED, m MEDIUMINT, d DECIMAL(65,30), e DECIMAL(12,2), g DECIMAL(9,9), f FLOAT, w DOUBLE,"
    " a DATE, t TIME(6), s TIME(1), dt DATETIME(3), dl DATETIME(6), ts TIMESTAMP(5) NULL, b BIT(37),"
    " v VARCHAR(40) CHARACTER SET utf8mb4, c CHAR(20) CHARACTER SET utf16, r BINARY(9), x BLOB"
)


def decimals(precision: int, scale: int) -> st.SearchStrategy[str]:
    def spell(number: int) -> str:
        digits = str(abs(number)).zfill(scale + 1)
        return f"{'-' * (number < 0)}{digits[:-scale]}.{digits[-scale:]}"

    top = 10**precision - 1
    return st.integers(-top, top).map(spell)


def literal(value: float) -> str:
    return repr(value) if "e" in repr(value) else f"{value!r}e0"


MOMENTS = st.datetimes(min_value=datetime(1000, 1, 1))
LATER = st.integers(1, 2**31 - 2).map(lambda s: f"FROM_UNIXTIME({s}.12345)")
CLOCKS = st.builds(
    lambda sign, h, m, s, f: f"'{sign}{h:02d}:{m:02d}:{s:02d}.{f:06d}'",
    st.sampled_from(["", "-"]),
    st.integers(0, 837),
    st.integers(0, 59),
    st.integers(0, 59),
    st.integers(0, 999999),
)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20).map(
    lambda t: f"CONVERT(x'{t.encode().hex()}' USING utf8mb4)"
)
BYTES = st.binary(max_size=9).map(lambda b: f"x'{b.hex()}'")

COLUMNS: Sequence[st.SearchStrategy[str]] = (
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.integers(0, 2**64 - 1).map(str),
    st.integers(-(2**23), 2**23 - 1).map(str),
    decimals(65, 30),
    decimals(12, 2),
    decimals(9, 9),
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(
        lambda v: f"{v!r}e0" if "e" not in repr(v) else repr(v)
    ),
    st.floats(allow_nan=False, allow_infinity=False).map(
        lambda v: f"{v!r}e0" if "e" not in repr(v) else repr(v)
    ),
    MOMENTS.map(lambda m: f"'{m.date().isoformat()}'"),
    CLOCKS,
    CLOCKS,
    MOMENTS.map(lambda m: f"'{m.isoformat(' ')}'"),
    MOMENTS.map(lambda m: f"'{m.isoformat(' ')}'"),
    LATER,
    st.integers(0, 2**37 - 1).map(str),
    TEXTS,
    TEXTS,
    BYTES,
    BYTES,
)
ROWS = st.lists(
    st.tuples(*(st.one_of(st.just("NULL"), column, column, column) for column in COLUMNS)),
    min_size=1,
    max_size=40,
)


@pytest.fixture(scope="module", params=["mysql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(f"{request.param}_source")
    return found


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=ROWS)
def test_rows_decode_as_the_server_shows_them(server: Server, rows: list[tuple[str, ...]]) -> None:
    with fresh_database(server) as database:
        server.execute(f"CREATE TABLE t (id INT PRIMARY KEY, {DEFINITIONS})", database=database)
        schema = schema_of(server, database, "t")
        log = Log(server)
        values = ", ".join(f"({k}, {', '.join(row)})" for k, row in enumerate(rows))
        server.execute(f"SET time_zone='+00:00'; INSERT INTO t VALUES {values}", database=database)
        assert_equal(schema, log.inserted([schema])["t"], server_rows(server, schema), "insert")
