"""What session and refusals do without a server: PyMySQL's private names, error classes, bodies in blocks."""

from __future__ import annotations

import inspect

import pymysql
import pytest
from pymysql.connections import Connection, MySQLResult

from replicator.errors import (
    CheckRefused,
    DataError,
    DuplicateKey,
    TargetError,
    TargetRetry,
    TargetUnavailable,
)
from replicator.refusals import Grantee, classify
from replicator.session import BODY_PACKET_BYTES, Body

CONNECTION_NAMES = (
    "_execute_command",
    "_force_close",
    "_read_packet",
    "_read_timeout",
    "_sock",
    "_write_timeout",
    "write_packet",
)


@pytest.mark.parametrize("name", CONNECTION_NAMES)
def test_pymysql_still_has_the_private_names_of_a_connection(name: str) -> None:
    source = inspect.getsource(Connection)
    assert f"self.{name}" in source or f"def {name}(" in source


def test_pymysql_still_reads_answers_by_the_names_that_are_overridden() -> None:
    source = inspect.getsource(MySQLResult.read)
    assert "self._read_load_local_packet(first_packet)" in source
    assert "self.connection._read_packet()" in source
    assert "def _read_ok_packet(self, packet)" in inspect.getsource(MySQLResult)
    for name in ("affected_rows", "warning_count", "rows", "has_next"):
        assert f"self.{name} = " in inspect.getsource(MySQLResult.__init__)


def test_pymysql_connects_on_a_socket_it_is_given_and_keeps_the_cause_of_a_failure() -> None:
    assert list(inspect.signature(Connection.connect).parameters) == ["self", "sock"]
    assert "exc.original_exception = e" in inspect.getsource(Connection.connect)


@pytest.mark.parametrize(
    "number", [2003, 2005, 2006, 2013, 1290, 1836, 1792, 1040, 1226, 1053, 3100, 3101, 4031, 1927, 3169]
)
def test_outages_are_waited_for(number: int) -> None:
    error = classify(pymysql.err.OperationalError(number, "gone", sqlstate="HY000"))
    assert isinstance(error, TargetUnavailable)
    assert error.errno == number


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (3, "Error writing file 'x' (OS errno 28 - No space left on device)"),
        (1021, "Disk full (/tmp/x)"),
        (1030, "Got error 28 - 'No space left on device' from storage engine"),
        (1114, "The table 't' is full"),
    ],
)
def test_a_full_disk_at_the_target_is_waited_for(number: int, text: str) -> None:
    error = classify(pymysql.err.OperationalError(number, text, sqlstate="HY000"))
    assert isinstance(error, TargetUnavailable)
    assert "out of room" in error.message


def test_another_failure_of_the_storage_engine_is_not_waited_for() -> None:
    text = "Got error 168 - 'Unknown (generic) error from engine' from storage engine"
    assert not classify(pymysql.err.OperationalError(1030, text, sqlstate="HY000")).retryable


@pytest.mark.parametrize(
    ("number", "sqlstate", "kind"),
    [
        (1205, "HY000", TargetRetry),
        (1213, "40001", TargetRetry),
        (3572, "HY000", TargetRetry),
        (1062, "23000", DuplicateKey),
        (1242, "21000", CheckRefused),
        (1406, "22001", DataError),
        (1452, "23000", DataError),
        (1264, "22003", DataError),
    ],
)
def test_errors_are_classed_by_code_and_sqlstate(number: int, sqlstate: str, kind: type) -> None:
    error = classify(pymysql.err.OperationalError(number, "text", sqlstate=sqlstate), 3)
    assert type(error) is kind
    assert (error.errno, error.sqlstate, error.result_index) == (number, sqlstate, 3)


def test_an_unlisted_error_stops_with_its_number() -> None:
    error = classify(pymysql.err.OperationalError(1146, "Table 'a.b' doesn't exist", sqlstate="42S02"))
    assert type(error) is TargetError
    assert not error.retryable
    assert "1146" in str(error)


def test_a_closed_connection_is_an_outage() -> None:
    assert isinstance(classify(pymysql.err.InterfaceError(0, "")), TargetUnavailable)


def test_a_denial_prints_the_grant() -> None:
    text = "INSERT command denied to user 'app'@'10.0.0.7' for table 'orders'"
    error = classify(
        pymysql.err.OperationalError(1142, text, sqlstate="42000"), grantee=Grantee("'app'@'%'", "shop")
    )
    assert (
        "GRANT INSERT ON `shop`.* TO 'app'@'%';" in error.hint
    )  # not to the client's host, which has no account


def test_a_denied_database_prints_every_privilege_that_is_needed() -> None:
    text = "Access denied for user 'app'@'%' to database 'shop'"
    error = classify(pymysql.err.OperationalError(1044, text, sqlstate="42000"))
    assert "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES" in error.hint
    assert "ON `shop`.* TO 'app'@'%'" in error.hint


class _Wire:
    """Stands for a PyMySQL connection while a body is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.is_closed = False

    def write_packet(self, payload: bytes) -> None:
        self.sent.append(payload)

    def _force_close(self) -> None:
        self.is_closed = True


PACKET = b"ROLLBACK;LOAD DATA LOCAL INFILE 'rows' INTO TABLE t;COMMIT"


def test_a_body_goes_out_in_packets_of_a_mebibyte_and_ends_with_an_empty_one() -> None:
    wire = _Wire()
    Body(PACKET, [b"", b"a" * (BODY_PACKET_BYTES + 5), b"b"]).send(wire, b"rows")
    assert [len(packet) for packet in wire.sent] == [BODY_PACKET_BYTES, 5, 1, 0]
    assert not wire.is_closed


@pytest.mark.parametrize("name", [b"/etc/passwd", b"", b"rows2"])
def test_a_request_for_another_file_is_answered_with_nothing(name: bytes) -> None:
    wire = _Wire()
    with pytest.raises(TargetError, match="asked for the local file"):
        Body(PACKET, [b"a"]).send(wire, name)
    assert wire.sent == []
    assert wire.is_closed


def test_a_request_is_refused_when_no_body_is_outstanding() -> None:
    wire = _Wire()
    with pytest.raises(TargetError):
        Body(PACKET, None).send(wire, b"rows")
    assert wire.is_closed


def test_a_body_is_sent_once() -> None:
    wire = _Wire()
    body = Body(PACKET, [b"a"])
    body.send(wire, b"rows")
    with pytest.raises(TargetError):
        body.send(wire, b"rows")
    assert wire.sent == [b"a", b""]


def test_a_body_that_fails_closes_the_connection_without_ending_the_file() -> None:
    wire = _Wire()

    def read() -> object:
        yield b"a"
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="gone"):
        Body(PACKET, read()).send(wire, b"rows")  # type: ignore[arg-type]
    assert wire.sent == [b"a"]
    assert wire.is_closed


@pytest.mark.parametrize("number", [3008, 6575])
def test_a_cascade_that_the_target_refuses_is_named_with_the_way_out(number: int) -> None:
    error = classify(pymysql.err.OperationalError(number, "Foreign key cascade exceeds", sqlstate="HY000"))
    assert not error.retryable
    assert "innodb_native_foreign_keys=ON" in error.hint
