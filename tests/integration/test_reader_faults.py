"""What the reader does when the source goes away, comes back, or is not the one it was (SEMANTICS §1.6, §1.8)."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from replicator.errors import Fenced, PositionLost, SourceError, SourceTaken, SourceUnavailable
from replicator.model import Heartbeat, Idle, Position, SchemaChange, StreamItem, TableSchema, Transaction
from replicator.readers import mysql, transport
from replicator.readers.gtid import FilePosition, GtidPosition, MariadbPosition
from replicator.readers.mysql import MysqlReader
from replicator.servers import Server, start_mariadb, start_mysql
from replicator.tls import Tls, TlsMode
from tests.accounts import Account
from tests.streams import (
    describe,
    follow,
    list_changes,
    make_source,
    open_reader,
    open_root_reader,
    read_transactions,
    read_until,
)
from tests.targets import wait_until

START: dict[str, Callable[..., Server]] = {"mysql": start_mysql, "mariadb": start_mariadb}


@pytest.fixture(params=["mysql", "mariadb"], scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of these tests' own, which they may stop and leave with any log, but running."""
    with START[request.param]() as started:
        make_table(started)
        yield started


@pytest.fixture(scope="module")
def plain_server() -> Iterator[Server]:
    """MySQL without GTIDs: positions are places in files."""
    with start_mysql(gtid_mode=False) as started:
        make_table(started)
        yield started


def make_table(server: Server) -> None:
    server.execute("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY AUTO_INCREMENT, v INT)")


def insert(server: Server, *values: int) -> None:
    server.execute([f"INSERT INTO d.t (v) VALUES ({value})" for value in values])


def read_values(items: list[Transaction]) -> list[object]:
    return [row[1] for change in list_changes(items) for row in change[3]]


def take_until(stream: Iterator[StreamItem], count: int) -> list[Transaction]:
    """The next ``count`` transactions with rows."""
    items = list[Transaction]()
    while len(items) < count:
        item = next(stream)
        if isinstance(item, Transaction) and item.rows:
            items.append(item)
    return items


def exhaust(stream: Iterator[StreamItem]) -> None:
    for _ in stream:
        pass


def open_at(server: Server) -> tuple[MysqlReader, Position, list[TableSchema]]:
    reader = open_root_reader(server, "0011aabb")
    return reader, reader.position(), describe(reader, "d", "t")


def purge_all_but_last(server: Server) -> None:
    """Servers keep a log, without a word, for as long as something may need it."""
    while len(logs := server.execute("SHOW BINARY LOGS")) > 1:
        server.execute(f"PURGE BINARY LOGS TO '{logs[-1][0]}'")


def kill_dumps(server: Server) -> int:
    rows = server.execute("SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'")
    for (number,) in rows:
        server.execute(f"KILL {number}")
    return len(rows)


def test_killed_dump_is_taken_up_again(server: Server) -> None:
    reader, start, tables = open_at(server)
    insert(server, 1, 2)
    stream = follow(reader, start, tables)
    items = take_until(stream, 2)
    assert kill_dumps(server) == 1
    insert(server, 3)
    items += take_until(stream, 1)
    assert read_values(items) == [1, 2, 3]
    assert reader.counters.reconnects == 1
    assert reader.is_waiting() == ""


def test_restart_of_the_source_loses_nothing(server: Server) -> None:
    reader, start, tables = open_at(server)
    stream = follow(reader, start, tables)
    insert(server, 1)
    items = take_until(stream, 1)
    server.kill()
    item = next(stream)
    while not reader.is_waiting():
        item = next(stream)
    assert isinstance(item, Idle)
    assert item.position == items[-1].position
    assert str(server.port) in reader.is_waiting()
    server.start()
    insert(server, 2)
    items += take_until(stream, 1)
    assert read_values(items) == [1, 2]
    assert reader.is_waiting() == ""


def test_crash_within_a_transaction_discards_it(server: Server) -> None:
    reader, start, tables = open_at(server)
    insert(server, 1)
    cursor = server.connect().cursor()
    cursor.execute("BEGIN")
    cursor.execute("INSERT INTO d.t (v) VALUES (99)")
    server.kill()
    server.start()
    insert(server, 2)
    assert read_values(read_transactions(reader, start, tables)) == [1, 2]


def test_stop_ends_a_stream_that_waits(server: Server) -> None:
    reader, start, tables = open_at(server)
    stop, seen = threading.Event(), threading.Event()
    ended = threading.Event()

    def consume() -> None:
        for _ in reader.read(start, tables, stop):
            seen.set()
        ended.set()

    thread = threading.Thread(target=consume)
    thread.start()
    assert seen.wait(10)
    server.kill()
    stop.set()
    thread.join(10)
    assert ended.is_set()
    server.start()


def test_a_second_reader_with_the_same_server_id_ends_the_first(server: Server) -> None:
    reader, start, tables = open_at(server)
    stream = follow(reader, start, tables)
    insert(server, 1)
    take_until(stream, 1)
    other = open_root_reader(server, "0011aabb")
    second = follow(other, start, tables)
    take_until(second, 1)
    with pytest.raises(SourceTaken, match="server_id") as caught:
        exhaust(stream)
    assert not caught.value.retryable
    assert "another process" in caught.value.hint
    insert(server, 2)
    assert read_values(take_until(second, 1)) == [2]


def test_a_reader_that_was_replaced_does_not_take_the_log(server: Server) -> None:
    """It comes to its first read later than the newcomer, whom it leaves at work."""
    older, start, tables = open_at(server)

    def refuse() -> None:
        raise Fenced("taken over")

    older.confirm = refuse
    newcomer = open_root_reader(server, "0011aabb")
    stream = follow(newcomer, start, tables)
    insert(server, 1)
    take_until(stream, 1)
    with pytest.raises(Fenced):
        exhaust(follow(older, start, tables))
    insert(server, 2)
    assert read_values(take_until(stream, 1)) == [2]
    assert newcomer.counters.reconnects == 0


def test_a_reader_waits_for_an_older_one_that_lets_go_of_the_log(server: Server) -> None:
    """The newcomer's connection was lost just when the older one came; that one learns in a moment that it was replaced."""
    reader, start, tables = open_at(server)
    stream = follow(reader, start, tables)
    insert(server, 1)
    take_until(stream, 1)
    older = server.connect()
    with older.cursor() as cursor:
        cursor.execute(f"KILL {reader._dump_id}")
        cursor.execute("SELECT GET_LOCK('replicator:0011aabb', 10)")
        assert cursor.fetchone() == (1,)

    def let_go() -> None:
        wait_until(lambda: any(row[6] == "User lock" for row in server.execute("SHOW PROCESSLIST")))
        older.close()

    thread = threading.Thread(target=let_go)
    thread.start()
    insert(server, 2)
    assert read_values(take_until(stream, 1)) == [2]
    thread.join()


def test_an_idle_source_is_heard_of(server: Server) -> None:
    reader, start, tables = open_at(server)
    insert(server, 1)
    heard = list[Heartbeat]()
    for item in follow(reader, start, tables):
        if isinstance(item, Heartbeat):
            heard.append(item)
            if item.position.covers(reader.position()):
                break
    assert heard[-1].received > 0


def test_purged_logs_are_named(server: Server) -> None:
    reader, start, tables = open_at(server)
    insert(server, 1, 2, 3)
    current = reader.position()
    server.execute("FLUSH BINARY LOGS")
    insert(server, 4)
    purge_all_but_last(server)
    reader.verify_position(current)
    with pytest.raises(PositionLost, match="purged transactions that were not read") as caught:
        reader.verify_position(start)
    assert str(start) in caught.value.message
    assert "load again" in caught.value.hint
    missing = caught.value.message.split(": ")[1]
    if isinstance(current, GtidPosition) and isinstance(start, GtidPosition):
        assert str(current.gtids.subtract(start.gtids)) in caught.value.message
    else:
        assert missing
    with pytest.raises(PositionLost):
        read_until(reader, start, tables, current)


def test_a_position_the_source_never_reached_is_refused(server: Server) -> None:
    reader, _, _ = open_at(server)
    insert(server, 1)
    later = reader.position()
    server.execute("RESET BINARY LOGS AND GTIDS" if server.kind == "mysql" else "RESET MASTER")
    with pytest.raises(PositionLost, match="never committed"):
        reader.verify_position(later)


def test_another_server_behind_the_address_is_refused(server: Server) -> None:
    reader, start, tables = open_at(server)
    with START[server.kind]() as twin:
        make_table(twin)
        other = MysqlReader(make_source(server, twin.user, twin.password, port=twin.port))
        assert other.identity != reader.identity
        with pytest.raises(PositionLost, match="another server"):
            other.verify_position(start)
        with pytest.raises(PositionLost, match="another server"):
            read_until(other, start, tables)


def test_unreachable_sources_are_outages(server: Server) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(SourceUnavailable):
            MysqlReader(make_source(server, server.user, server.password, port=closed.getsockname()[1]))


def test_the_wrong_product_is_named(server: Server) -> None:
    source = make_source(server, server.user, server.password)
    other = "mariadb" if server.kind == "mysql" else "mysql"
    object.__setattr__(source, "type", type(source.type)(other))
    with pytest.raises(SourceError, match=f"is a {server.kind} server"):
        MysqlReader(source)


# --- positions in files ------------------------------------------------------------------------------------------------


def test_without_gtids_the_stream_runs_on_files(plain_server: Server) -> None:
    server = plain_server
    reader, start, tables = open_at(server)
    assert isinstance(start, FilePosition)
    insert(server, 1, 2)
    server.execute("FLUSH BINARY LOGS")
    insert(server, 3)
    server.execute("SET SESSION binlog_transaction_compression = 1; INSERT INTO d.t (v) VALUES (4), (5)")
    insert(server, 6)
    items = read_transactions(reader, start, tables)
    assert read_values(items) == [1, 2, 3, 4, 5, 6]
    end = reader.position()
    for number, item in enumerate(items):
        reader.verify_position(item.position)
        again = reader.parse_position(str(item.position))
        assert read_values(read_transactions(reader, again, tables, end)) == read_values(items[number + 1 :])


def test_ddl_without_gtids_is_a_barrier(plain_server: Server) -> None:
    reader, start, tables = open_at(plain_server)
    insert(plain_server, 1)
    before = reader.position()
    plain_server.execute("ALTER TABLE d.t ADD COLUMN w INT; CREATE TABLE d.u (id INT)")
    items = read_until(reader, start, tables)
    [change] = [item for item in items if isinstance(item, SchemaChange)]
    assert change.before == before
    assert items[-1].position == reader.position()
    plain_server.execute("ALTER TABLE d.t DROP COLUMN w; DROP TABLE d.u")


def test_file_position_follows_rotation_of_an_idle_source(plain_server: Server) -> None:
    """A position left in an old file would be purged under us."""
    server = plain_server
    reader, start, tables = open_at(server)
    for _ in range(2):
        server.execute("FLUSH BINARY LOGS")
    current = reader.position()
    read_until(reader, start, tables, current)
    assert isinstance(current, FilePosition)
    assert isinstance(start, FilePosition)
    assert current.number == start.number + 2


def test_file_position_of_a_reset_log_is_refused(plain_server: Server) -> None:
    """SEMANTICS §1.6: the same file name and offset exist again after a reset."""
    server = plain_server
    reader, start, _ = open_at(server)
    assert isinstance(start, FilePosition)
    old = FilePosition(start.server, start.file, start.created - 7, start.offset)
    with pytest.raises(PositionLost, match="reset"):
        reader.verify_position(old)
    server.execute("FLUSH BINARY LOGS")
    purge_all_but_last(server)
    with pytest.raises(PositionLost, match="is gone from the source"):
        reader.verify_position(start)


def test_restart_without_gtids_loses_nothing(plain_server: Server) -> None:
    server = plain_server
    reader, start, tables = open_at(server)
    stream = follow(reader, start, tables)
    insert(server, 1)
    items = take_until(stream, 1)
    server.restart()
    insert(server, 2)
    items += take_until(stream, 1)
    assert read_values(items) == [1, 2]


# --- the link ---------------------------------------------------------------------------------------------------------


class Hole:
    """A relay to a server that can begin to swallow all bytes, as a dead tunnel does."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.is_dead = threading.Event()
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self.is_dead.is_set():
                    sink.sendall(data)

    def close(self) -> None:
        for each in self._sockets:
            each.close()


def test_a_link_that_goes_silent_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "SILENT_HEARTBEATS", 2)
    monkeypatch.setattr(mysql, "HANDSHAKE_SECONDS", 1)
    hole = Hole(server.port)
    with contextlib.closing(hole):
        reader = MysqlReader(make_source(server, server.user, server.password, port=hole.port))
        start, tables = reader.position(), describe(reader, "d", "t")
        stream = follow(reader, start, tables)
        insert(server, 1)
        take_until(stream, 1)
        hole.is_dead.set()
        while not reader.is_waiting():
            next(stream)
        assert "no heartbeat" in reader.is_waiting()
        hole.is_dead.clear()
        insert(server, 2)
        assert read_values(take_until(stream, 1)) == [2]


def test_source_that_nobody_reads_keeps_its_dump(mysql_source_account: Account) -> None:
    """SEMANTICS §1.8: the session's time-outs are long, because a full queue is no death."""
    reader = open_reader(mysql_source_account, "77aa77aa")
    stream = follow(reader, reader.position(), [])
    next(stream)
    rows = mysql_source_account.server.execute(
        "SELECT v.VARIABLE_NAME, v.VARIABLE_VALUE FROM performance_schema.variables_by_thread v JOIN"
        " performance_schema.threads t USING (THREAD_ID) WHERE t.PROCESSLIST_COMMAND LIKE 'Binlog Dump%'"
        f" AND t.PROCESSLIST_USER = '{mysql_source_account.user}' AND v.VARIABLE_NAME LIKE 'net%timeout'"
    )
    assert {(name, value) for name, value in rows} == {
        ("net_read_timeout", "3600"),
        ("net_write_timeout", "3600"),
    }


def test_the_dump_notices_a_dead_source_and_follows_a_name_that_moves(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sockets' own deadlines (SEMANTICS §1.8); the name is resolved again at each connect, as after a failover."""
    resolve, asked = socket.getaddrinfo, list[str]()
    leads_to = server.host

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        if host != "primary.example":
            return resolve(host, *args, **options)
        asked.append(leads_to)
        return resolve(leads_to, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    endpoint = make_source(server, server.user, server.password)
    reader = MysqlReader(dataclasses.replace(endpoint, host="primary.example"))
    start, tables = reader.position(), describe(reader, "d", "t")
    stream = follow(reader, start, tables)
    insert(server, 1)
    take_until(stream, 1)
    assert reader._link is not None
    link = reader._link._connection._sock
    assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert link.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
    idle, between, count = (
        link.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{name}"))
        for name in ("IDLE", "INTVL", "CNT")
    )
    assert idle + between * count == 30
    leads_to = "127.0.0.2"  # nobody listens there
    link.shutdown(socket.SHUT_RDWR)
    while "refused" not in reader.is_waiting():
        next(stream)
    assert asked[-1] == "127.0.0.2"
    leads_to = server.host
    insert(server, 2)
    assert read_values(take_until(stream, 1)) == [2]
    assert asked[-1] == server.host


def test_stream_runs_over_tls(mysql_source_account: Account) -> None:
    account = mysql_source_account
    account.server.execute(f"CREATE TABLE {account.database}.t (id INT PRIMARY KEY)")
    source = make_source(account.server, account.user, account.password, tls=Tls(TlsMode.REQUIRED))
    reader = MysqlReader(source)
    start, tables = reader.position(), describe(reader, account.database, "t")
    account.server.execute([f"INSERT INTO {account.database}.t VALUES ({n})" for n in range(300)])
    assert len(read_transactions(reader, start, tables)) == 300


def test_mariadb_sequence_numbers_that_go_backwards_are_refused(mariadb_source_account: Account) -> None:
    """SEMANTICS §1.6."""
    account = mariadb_source_account
    reader = open_reader(account)
    start = reader.position()
    assert isinstance(start, MariadbPosition)
    domain = 1000 + sum(map(ord, account.database))
    with account.server.connect(database=account.database) as connection, connection.cursor() as cursor:
        cursor.execute(f"SET SESSION gtid_domain_id = {domain}, server_id = 5, gtid_seq_no = 10")
        cursor.execute("CREATE TABLE one (id INT)")
        cursor.execute("SET SESSION gtid_seq_no = 3")
        cursor.execute("CREATE TABLE two (id INT)")
        cursor.execute("SET SESSION gtid_seq_no = 20")
        cursor.execute("CREATE TABLE three (id INT)")
    with pytest.raises(PositionLost, match="go backwards"):
        read_until(reader, start, [])


def test_checksums_may_be_switched_on_the_way(server: Server) -> None:
    reader, start, tables = open_at(server)
    insert(server, 1)
    for number, algorithm in enumerate(("NONE", "CRC32", "NONE"), start=2):
        server.execute(f"SET GLOBAL binlog_checksum = {algorithm}")
        insert(server, number)
        assert read_values(read_transactions(reader, start, tables)) == list(range(1, number + 1))
    server.execute("SET GLOBAL binlog_checksum = CRC32")


def test_checksums_switched_under_a_running_stream(server: Server) -> None:
    reader, start, tables = open_at(server)
    stream = follow(reader, start, tables)
    values = list[object]()
    for number, algorithm in enumerate(("NONE", "CRC32", "NONE", "CRC32")):
        insert(server, number)
        values += read_values(take_until(stream, 1))
        server.execute(f"SET GLOBAL binlog_checksum = {algorithm}")
    assert values == [0, 1, 2, 3]
