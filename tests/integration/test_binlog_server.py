"""Events of real logs of both products, parsed: what the server did is what they say."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator

import pytest

from replicator.readers import binlog
from replicator.servers import Server, start_mariadb, start_mysql
from tests.accounts import pick_name
from tests.rowlog import Log, LogEvent, scan


@pytest.fixture(scope="module")
def mysql_source() -> Iterator[Server]:
    """Servers of this module's own: it writes tagged GTIDs, after which this version reads a log no more."""
    with start_mysql() as server:
        yield server


@pytest.fixture(scope="module")
def mariadb_source() -> Iterator[Server]:
    with start_mariadb() as server:
        yield server


@pytest.fixture
def table(source_server: Server) -> Iterator[str]:
    name = pick_name()
    source_server.execute(f"CREATE DATABASE {name}; CREATE TABLE {name}.t (id INT PRIMARY KEY)")
    yield f"{name}.t"
    source_server.execute(f"DROP DATABASE {name}")


def of(log: Log, *types: int) -> list[LogEvent]:
    return [event for event in log.events() if event.type in types]


def test_every_event_is_known_and_ends_where_the_next_begins(source_server: Server, table: str) -> None:
    log = Log(source_server)
    source_server.execute(f"INSERT INTO {table} VALUES (1); DELETE FROM {table}; FLUSH BINARY LOGS")
    events = list(log.events())
    assert {event.type for event in events} <= set(binlog.EVENT_NAMES)
    for event, following in itertools.pairwise(events):
        if following.type != binlog.FORMAT_DESCRIPTION:
            assert following.start - binlog.HEADER_SIZE == event.log_pos


def test_format_description_binds_a_file_to_its_creation(source_server: Server) -> None:
    log = Log(source_server)
    (event,) = of(log, binlog.FORMAT_DESCRIPTION)
    description = binlog.parse_format_description(*event.place)
    (now,) = source_server.execute("SELECT UNIX_TIMESTAMP(), VERSION()")
    assert description.server_version.startswith(str(now[1])[:8])
    assert description.is_mariadb == (source_server.kind == "mariadb")
    assert description.checksum == binlog.CHECKSUM_CRC32
    assert description.created == 0  # a rotation; only the file of a server's start carries its time
    first = next(scan((source_server.datadir / log.files()[0]).read_bytes()))
    started = binlog.parse_format_description(*first.place).created
    assert 0 <= int(now[0]) - started < 7200


def test_rotation_names_the_next_file(source_server: Server) -> None:
    log = Log(source_server)
    source_server.execute("FLUSH BINARY LOGS")
    (event,) = of(log, binlog.ROTATE)
    assert binlog.parse_rotate(*event.place) == binlog.Rotate(log.files()[-1], 4)


def test_statements_carry_their_schema_mode_and_zone(source_server: Server, table: str) -> None:
    schema = table.partition(".")[0]
    log = Log(source_server)
    statement = "INSERT INTO é VALUES (NOW(6)), ('2024-01-01')"
    with (
        source_server.connect(charset="latin1", database=schema) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("CREATE TABLE é (t TIMESTAMP(6))")
        cursor.execute("SET sql_mode='ANSI_QUOTES', time_zone='+05:30', timestamp=1700000000.25")
        cursor.execute("SET SESSION binlog_format=STATEMENT")
        cursor.execute(statement)
    queries = [binlog.parse_query(*e.place) for e in of(log, binlog.QUERY)]
    (query,) = [query for query in queries if b"INSERT" in query.statement]
    assert query.schema == schema.encode()
    assert query.statement == statement.encode("latin1")
    assert query.sql_mode == 4
    assert query.charset == 8
    assert query.time_zone == "+05:30"
    assert query.error_code == 0
    assert query.microseconds == 250000


def test_statements_on_many_schemas(mysql_source: Server) -> None:
    names = [pick_name() for _ in range(3)]
    mysql_source.execute("".join(f"CREATE DATABASE {n}; CREATE TABLE {n}.t (a INT);" for n in names))
    log = Log(mysql_source)
    mysql_source.execute("SET time_zone='+01:00'; DROP TABLE " + ", ".join(f"{n}.t" for n in names))
    (query,) = [binlog.parse_query(*e.place) for e in of(log, binlog.QUERY)]
    assert query.statement.startswith(b"DROP TABLE")
    mysql_source.execute("".join(f"DROP DATABASE {n};" for n in names))


def test_gtids_with_tags(mysql_source: Server) -> None:
    name, other = pick_name(), str(uuid.uuid4())
    mysql_source.execute(f"CREATE DATABASE {name}")
    log = Log(mysql_source)
    mysql_source.execute(
        f"SET gtid_next='{other}:some_tag:9223372036854775805', original_commit_timestamp=1500000000000000;"
        f"CREATE TABLE {name}.t (a INT); SET gtid_next='AUTOMATIC', original_commit_timestamp=DEFAULT"
    )
    (event,) = of(log, binlog.GTID_TAGGED)
    gtid = binlog.parse_gtid_tagged(*event.place)
    assert (gtid.sid, gtid.tag, gtid.gno) == (uuid.UUID(other).bytes, "some_tag", 9223372036854775805)
    assert gtid.commit_time > 1600000000000000
    mysql_source.execute(f"DROP DATABASE {name}")


XA = "XA START 'abc','de',7; INSERT INTO {} VALUES (1); XA END 'abc','de',7; XA PREPARE 'abc','de',7"


def test_xa_names_its_transaction_in_prepare(source_server: Server, table: str) -> None:
    log = Log(source_server)
    source_server.execute(XA.format(table))
    source_server.execute("XA COMMIT 'abc','de',7")
    (event,) = of(log, binlog.XA_PREPARE)
    prepare = binlog.parse_xa_prepare(*event.place)
    assert prepare == binlog.XaPrepare(binlog.Xid(7, b"abc", b"de"), one_phase=False)
    if source_server.kind == "mariadb":
        prepared, completed = [binlog.parse_mariadb_gtid(*e.place) for e in of(log, binlog.MARIADB_GTID)]
        assert prepared.xid == completed.xid == prepare.xid
        assert (prepared.is_xa_prepare, prepared.is_xa_completed) == (True, False)
        assert (completed.is_xa_prepare, completed.is_xa_completed) == (False, True)
        assert completed.sequence == prepared.sequence + 1


def test_xa_in_one_phase_is_a_commit(mysql_source: Server) -> None:
    name = pick_name()
    mysql_source.execute(f"CREATE DATABASE {name}; CREATE TABLE {name}.t (id INT PRIMARY KEY)")
    log = Log(mysql_source)
    mysql_source.execute(
        f"XA START 'x'; INSERT INTO {name}.t VALUES (1); XA END 'x'; XA COMMIT 'x' ONE PHASE"
    )
    (event,) = of(log, binlog.XA_PREPARE)
    assert binlog.parse_xa_prepare(*event.place) == binlog.XaPrepare(binlog.Xid(1, b"x", b""), one_phase=True)
    mysql_source.execute(f"DROP DATABASE {name}")


def test_mariadb_gtids_say_what_follows(mariadb_source: Server) -> None:
    name = pick_name()
    log = Log(mariadb_source)
    mariadb_source.execute(
        f"SET gtid_domain_id=5; CREATE DATABASE {name}; CREATE TABLE {name}.t (id INT PRIMARY KEY) ENGINE=InnoDB;"
        f"INSERT INTO {name}.t VALUES (1); SET binlog_alter_two_phase=ON; ALTER TABLE {name}.t ADD a INT;"
        f"DROP DATABASE {name}"
    )
    gtids = [binlog.parse_mariadb_gtid(*e.place) for e in of(log, binlog.MARIADB_GTID)]
    assert {gtid.domain for gtid in gtids} == {5}
    numbers = [gtid.sequence for gtid in gtids]
    assert numbers == list(range(numbers[0], numbers[0] + 6))
    _, create, insert, start, commit, _ = gtids
    assert (create.is_standalone, create.is_ddl) == (True, True)
    assert (insert.is_standalone, insert.is_transactional, insert.is_ddl) == (False, True, False)
    assert start.is_start_alter
    assert (commit.is_commit_alter, commit.start_alter_sequence) == (True, start.sequence)


def test_the_terminator_of_rows(source_server: Server, table: str) -> None:
    log = Log(source_server)
    source_server.execute(f"BEGIN; INSERT INTO {table} VALUES (1); INSERT INTO {table} VALUES (2); COMMIT")
    # MariaDB's server writes its BINLOG_CHECKPOINT when it gets to it, perhaps after the commit.
    events = [event for event in log.events() if event.type != binlog.MARIADB_BINLOG_CHECKPOINT]
    assert events[-1].type == binlog.XID
