"""The private names of PyMySQL and mysql-replication that the transport touches are where it expects them."""

from __future__ import annotations

import inspect

import pymysql
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.gtid import GtidSet

from replicator.readers import transport


def test_private_names_are_there() -> None:
    for owner, name in transport.PRIVATE_NAMES:
        assert hasattr(owner, name), f"{owner.__name__}.{name} has moved"


def test_connection_keeps_its_socket_where_we_look() -> None:
    connection = pymysql.connections.Connection(defer_connect=True)
    assert connection._sock is None
    assert "_sock" in inspect.getsource(pymysql.connections.Connection._force_close)


def test_a_connection_reads_as_long_as_we_say() -> None:
    connection = pymysql.connections.Connection(defer_connect=True, read_timeout=7)
    assert connection._read_timeout == 7
    assert "self._read_timeout" in inspect.getsource(pymysql.connections.Connection._read_bytes)
    assert not hasattr(connection, "server_version")  # set by the greeting


def test_library_opens_its_session_through_our_function() -> None:
    """The seam: the session that we hand out is the one on which the dump is started."""
    source = inspect.getsource(BinLogStreamReader._BinLogStreamReader__connect_to_stream)
    assert "self._stream_connection = self.pymysql_wrapper(" in source
    assert "_ctl_connection" not in source.replace("self.__connect_to_ctl", "")


def test_library_takes_an_empty_gtid_set_from_us() -> None:
    members = transport._Members()
    assert members
    assert GtidSet(members).encoded_length == 8


def test_library_ends_its_command_with_the_set_that_we_replace() -> None:
    source = inspect.getsource(BinLogStreamReader._BinLogStreamReader__connect_to_stream)
    command = source[source.index("COM_BINLOG_DUMP_GTID])") :]
    assert 'struct.pack("<I", gtid_set.encoded_length)' in command
    assert command.index("gtid_set.encoded()") < command.index("_stream_connection._write_bytes(prelude)")
    assert len(GtidSet(transport._Members()).encoded()) + 4 == transport._EMPTY_SET_BYTES


def test_error_texts_become_errors_with_a_remedy() -> None:
    def explain(code: int, text: str) -> tuple[str, str]:
        error = transport.explain(pymysql.err.OperationalError(code, text), "db:3306")
        return error.code, error.hint

    assert explain(2003, "Can't connect")[0] == "source_unavailable"
    closed = transport.explain(pymysql.err.InterfaceError(0, ""), "db:3306")
    assert (closed.code, closed.message) == ("source_unavailable", "db:3306: the connection is closed")
    assert explain(1045, "Access denied")[0] == "source"
    assert "GRANT" in explain(1227, "you need (at least one of) the REPLICATION SLAVE privilege(s)")[1]
    purged = "Cannot replicate because the source purged required binary logs."
    assert explain(1236, purged)[0] == "position_lost"
    assert explain(1236, "Could not find first log file name in binary log index file")[0] == "position_lost"
    assert explain(1236, "log event entry exceeded max_allowed_packet")[0] == "source"
    assert "log_bin" in explain(1236, "Binary log is not open")[1]
    twin = "A replica with the same server_uuid/server_id as this replica has connected to the source"
    assert explain(1236, twin)[0] == "source_taken"
    assert "another process" in explain(1236, twin)[1]


def test_server_id_is_the_pipelines_own() -> None:
    a, b = transport.Replica.of("0011aabb"), transport.Replica.of("0011aabc")
    assert a == transport.Replica.of("0011aabb")
    assert a.server_id != b.server_id
    assert a.uuid != b.uuid
    assert 0 < a.server_id < 1 << 32
    assert transport.Replica.passing() != transport.Replica.passing()
