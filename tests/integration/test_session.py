"""Sessions against a real MySQL with a managed target's account, and against a server that lies."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.config import Target
from replicator.config.kinds import Secret
from replicator.errors import (
    CheckRefused,
    DataError,
    DuplicateKey,
    SourceError,
    TargetError,
    TargetRetry,
    TargetUnavailable,
)
from replicator.servers import start_mysql
from replicator.session import DEAD_PEER_SECONDS, READ_SECONDS, SQL_MODE, WAIT_SECONDS, Session
from replicator.sql import CHECK_LOAD
from replicator.tls import Tls, TlsMode
from tests.accounts import Account, make_target_account
from tests.targets import build_endpoint, wait_until
from tests.tunnel import Carrier, Tunnel

LOAD = b"ROLLBACK;LOAD DATA LOCAL INFILE 'rows' INTO TABLE t (id, v);%b;COMMIT"


@pytest.fixture
def endpoint(target_account: Account) -> Target:
    return build_endpoint(target_account)


@pytest.fixture
def session(endpoint: Target) -> Iterator[Session]:
    with Session.connect(endpoint, loads=True) as session:
        session.run(b"CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(5))")
        yield session


def read_rows(account: Account) -> list[tuple[object, ...]]:
    return account.query("SELECT id, v FROM t ORDER BY id")


def test_settings_are_those_of_every_session(session: Session) -> None:
    names = (
        "sql_mode, time_zone, transaction_isolation, range_optimizer_max_mem_size, wait_timeout, autocommit"
    )
    names += ", character_set_results, completion_type"
    columns = ", ".join(f"@@{name.strip()}" for name in names.split(","))
    row = session.query(f"SELECT {columns}")[0]
    assert set(row[0].split(",")) == set(SQL_MODE.split(","))
    assert row[1:] == ("+00:00", "READ-COMMITTED", 0, WAIT_SECONDS, 0, "utf8mb4", "NO_CHAIN")


def test_capabilities_are_read_from_the_server(session: Session, target_account: Account) -> None:
    found = session.capabilities
    assert found.version.startswith(f"{target_account.server.version[0]}.")
    (expected,) = target_account.server.execute(
        "SELECT @@GLOBAL.max_allowed_packet, @@GLOBAL.local_infile, @@GLOBAL.sql_require_primary_key"
    )
    assert (found.max_allowed_packet, found.local_infile, found.requires_primary_key) == expected
    assert found.tls is not None
    assert found.tls.startswith("TLSv1.")
    assert session.query("SELECT CONNECTION_ID()") == [(found.connection_id,)]


def test_counts_are_rows_matched_and_every_answer_is_read(session: Session) -> None:
    session.run(b"INSERT INTO t VALUES (1,'a'),(2,'b')")
    results = session.run(b"UPDATE t SET v='a';SELECT v FROM t ORDER BY id;DO 1;COMMIT")
    assert [result.affected_rows for result in results[:1]] == [2]
    assert results[1].rows == (("a",), ("a",))
    assert len(results) == 4


def test_a_failing_check_stops_the_packet_and_says_where(session: Session, target_account: Account) -> None:
    check = b"DO IF(ROW_COUNT()=2,0,(SELECT 1 UNION ALL SELECT 2))"
    with pytest.raises(CheckRefused) as caught:
        session.run(b"ROLLBACK;INSERT INTO t VALUES (1,'a');%b;COMMIT" % check)
    assert caught.value.result_index == 2
    session.run(
        b"ROLLBACK;INSERT INTO t VALUES (2,'b');COMMIT"
    )  # the next packet sweeps up what the first left
    assert read_rows(target_account) == [(2, "b")]


def test_refusals_carry_number_state_and_place(session: Session) -> None:
    session.run(b"INSERT INTO t VALUES (1,'a')")
    with pytest.raises(DuplicateKey) as duplicate:
        session.run(b"SELECT 1;INSERT INTO t VALUES (1,'a')")
    assert (duplicate.value.errno, duplicate.value.sqlstate, duplicate.value.result_index) == (
        1062,
        "23000",
        1,
    )
    assert duplicate.value.table == "t"
    with pytest.raises(DataError, match="column 'v'"):
        session.run(b"INSERT INTO t VALUES (2,'abcdef')")
    with pytest.raises(TargetError, match="1146"):
        session.run(b"SELECT * FROM missing")


def test_a_lock_that_is_taken_is_a_retry(session: Session, endpoint: Target) -> None:
    session.run(b"INSERT INTO t VALUES (1,'a');COMMIT;SELECT * FROM t FOR UPDATE")
    with Session.connect(endpoint) as other, pytest.raises(TargetRetry):
        other.query("SELECT * FROM t FOR UPDATE NOWAIT")


@pytest.mark.usefixtures("takes_files")
def test_a_body_is_loaded_from_memory(session: Session, target_account: Account) -> None:
    results = session.run(LOAD % (CHECK_LOAD % 3), iter([b"1\ta\n2", b"\tb\n", b"", b"3\tc\n"]))
    assert [result.affected_rows for result in results] == [0, 3, 0, 0]
    assert read_rows(target_account) == [(1, "a"), (2, "b"), (3, "c")]


@pytest.mark.usefixtures("takes_files")
def test_a_large_body_passes(session: Session) -> None:
    rows = [b"%d\tx\n" % number for number in range(200_000)]
    session.run(LOAD % (CHECK_LOAD % len(rows)), [b"".join(rows)])
    assert session.query("SELECT COUNT(*) FROM t") == [(200_000,)]


@pytest.mark.usefixtures("takes_files")
def test_a_load_with_a_warning_is_refused_whole(session: Session, target_account: Account) -> None:
    for body in (b"1\ta\n2\tmuch too long\n", b"1\ta\n1\tb\n", b"1\ta\n2\n", b"1\ta\nx\tb\n"):
        with pytest.raises((CheckRefused, DataError)):
            session.run(LOAD % (CHECK_LOAD % 2), [body])
        assert read_rows(target_account) == []
    session.run(LOAD % (CHECK_LOAD % 1), [b"5\te\n"])
    assert read_rows(target_account) == [(5, "e")]


@pytest.mark.usefixtures("takes_files")
def test_a_body_that_fails_commits_nothing_and_ends_the_session(
    session: Session, target_account: Account
) -> None:
    def read() -> Iterator[bytes]:
        yield b"1\ta\n" * 1
        yield b"2\tb\n"
        raise SourceError("the source is gone")

    with pytest.raises(SourceError, match="gone"):
        session.run(LOAD % b"DO 1", read())
    assert not session.is_open
    with pytest.raises(TargetUnavailable):
        session.run(b"SELECT 1")
    wait_until(
        lambda: (
            session.connection_id
            not in {row[0] for row in target_account.query("SHOW PROCESSLIST") if row[0]}
        )
    )
    assert read_rows(target_account) == []


@pytest.mark.usefixtures("takes_files")
def test_a_load_that_fails_before_asking_leaves_the_session_usable(session: Session) -> None:
    with pytest.raises(TargetError, match="1146"):
        session.run(b"LOAD DATA LOCAL INFILE 'rows' INTO TABLE missing", [b"1\ta\n"])
    assert session.query("SELECT 1") == [(1,)]


@pytest.mark.usefixtures("takes_files")
def test_a_statement_that_names_a_real_file_gets_nothing(
    session: Session, target_account: Account, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("1\tkey\n")
    with pytest.raises(TargetError, match="never named"):
        session.run(f"LOAD DATA LOCAL INFILE '{secret}' INTO TABLE t".encode())
    assert not session.is_open
    assert read_rows(target_account) == []


@pytest.mark.usefixtures("takes_files")
def test_one_body_answers_one_load(session: Session, target_account: Account) -> None:
    load = b"LOAD DATA LOCAL INFILE 'rows' INTO TABLE t"
    with pytest.raises(TargetError, match="never named"):
        session.run(b"%b;%b;COMMIT" % (load, load), [b"1\ta\n"])
    wait_until(lambda: read_rows(target_account) == [])


def test_a_session_that_does_not_load_is_refused_by_the_server(endpoint: Target, session: Session) -> None:
    with Session.connect(endpoint) as other, pytest.raises(TargetError) as caught:
        other.run(b"LOAD DATA LOCAL INFILE 'rows' INTO TABLE t", [b"1\ta\n"])
    assert caught.value.errno in (3948, 1148, 2068)


def test_foreign_key_checks_are_switched(session: Session) -> None:
    session.run(b"CREATE TABLE c (id INT PRIMARY KEY, FOREIGN KEY (id) REFERENCES t (id))")
    with pytest.raises(DataError, match="foreign key"):
        session.run(b"INSERT INTO c VALUES (1)")
    session.set_foreign_key_checks(False)
    session.run(b"INSERT INTO c VALUES (1)")
    session.set_foreign_key_checks(True)
    with pytest.raises(DataError):
        session.run(b"INSERT INTO c VALUES (2)")


def test_the_socket_notices_a_dead_peer_by_itself(session: Session) -> None:
    sock = session._connection._sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == DEAD_PEER_SECONDS * 1000
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) < DEAD_PEER_SECONDS
    assert sock.gettimeout() == READ_SECONDS


def test_kill_ends_a_session_and_forgives_one_that_is_gone(session: Session, endpoint: Target) -> None:
    other = Session.connect(endpoint)
    session.kill(other.connection_id)
    with pytest.raises(TargetUnavailable):
        other.query("SELECT 1")
    wait_until(lambda: other.connection_id not in {row[0] for row in session.query("SHOW PROCESSLIST")})
    session.kill(other.connection_id)


def test_abort_frees_a_thread_that_waits(session: Session) -> None:
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            session.query("SELECT SLEEP(60)")
        except TargetError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    session.abort()
    thread.join(20)
    assert not thread.is_alive()
    assert isinstance(caught[0], TargetUnavailable)


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"password": Secret("wrong-one")}, TargetError, "1045"),
        ({"database": "missing"}, TargetError, "1044"),
        ({"host": "no-such-host.invalid"}, TargetUnavailable, "cannot be reached"),
        ({"port": 1}, TargetUnavailable, "refused"),
        ({"tls": Tls(TlsMode.VERIFY_IDENTITY)}, TargetError, "certificate"),
    ],
)
def test_a_connect_that_fails_says_why_and_keeps_its_secret(
    endpoint: Target, change: dict[str, object], kind: type, text: str
) -> None:
    with pytest.raises(TargetError) as caught:
        Session.connect(dataclasses.replace(endpoint, **change))  # type: ignore[arg-type]
    assert type(caught.value) is kind
    assert text in str(caught.value)
    assert caught.value.hint
    assert "wrong-one" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_preferred_takes_the_encryption_that_is_offered(target_account: Account) -> None:
    with Session.connect(build_endpoint(target_account, tls=TlsMode.PREFERRED)) as session:
        assert session.capabilities.tls is not None


# --- a server that lies -----------------------------------------------------------------------------------------------

HANDSHAKE = (
    b"\x0a9.7.4\x00\x01\x00\x00\x00" + b"12345678\x00" + b"\xff\xf7\xff\x02\x00\xff\xff\x15" + b"\x00" * 10
) + b"123456789012\x00mysql_native_password\x00"
OK = b"\x00\x00\x00\x02\x00\x00\x00"


class Liar:
    """Speaks enough MySQL to let a client in, then answers its ``after``-th statement by asking for a local file."""

    def __init__(self, wanted: Path, after: int) -> None:
        self._wanted, self._after = wanted, after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.received = b""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(20)
        with connection, contextlib.suppress(OSError):
            self._send(connection, 0, HANDSHAKE)
            connection.recv(4096)
            self._send(connection, 2, OK)
            for _ in range(self._after):
                connection.recv(65536)
                self._send(connection, 1, OK)
            connection.recv(65536)
            self._send(connection, 1, b"\xfb" + str(self._wanted).encode())
            while data := connection.recv(65536):
                self.received += data

    def _send(self, connection: socket.socket, number: int, payload: bytes) -> None:
        connection.sendall(len(payload).to_bytes(3, "little") + bytes([number]) + payload)

    def close(self) -> None:
        self._thread.join(20)
        self._listener.close()


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("loads", [False, True])
def test_a_lying_server_gets_no_file(after: int, loads: bool, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the company's payroll")
    liar = Liar(secret, after)
    endpoint = Target(
        host="127.0.0.1",
        port=liar.port,
        user="u",
        password=Secret("p"),
        database="d",
        tls=Tls(TlsMode.DISABLED),
    )
    with pytest.raises(TargetError):
        Session.connect(endpoint, loads=loads, connect_seconds=1)
    liar.close()
    assert b"payroll" not in liar.received


class Interloper:
    """Takes over a session that a real server opened: answers its next statement by asking for a file of its choice."""

    def __init__(self, wanted: bytes) -> None:
        self._wanted = wanted
        self.is_armed = False
        self.has_asked = False
        self.received = b""

    def trick(self, carrier: Carrier, packet: bytes) -> bool:
        if self.has_asked:
            self.received += packet
            return True
        if not self.is_armed:
            return False
        self.has_asked = True
        payload = b"\xfb" + self._wanted
        carrier.client.sendall(len(payload).to_bytes(3, "little") + b"\x01" + payload)
        return True


@pytest.mark.parametrize("outstanding", [False, True], ids=["a statement", "our own load"])
@pytest.mark.parametrize("loads", [False, True], ids=["no loads", "loads"])
def test_a_server_that_turns_hostile_in_the_middle_gets_nothing(
    target_account: Account, tmp_path: Path, outstanding: bool, loads: bool
) -> None:
    """SEMANTICS §6.4: our rows go out for our token alone, and no file ever does."""
    server = target_account.server
    if server.execute("SELECT @@require_secure_transport") != [(0,)]:
        pytest.skip("this target lets nobody in without TLS, and the interloper reads none")
    secret = tmp_path / "secret"
    secret.write_text("the company's payroll")
    interloper = Interloper(str(secret).encode())
    with (
        Tunnel(server.host, server.port, trick=interloper.trick) as tunnel,
        Session.connect(
            build_endpoint(target_account, port=tunnel.port, tls=TlsMode.DISABLED), loads=loads
        ) as session,
    ):
        assert session.query("SELECT 1") == [(1,)]
        interloper.is_armed = True
        packet, body = (LOAD % b"DO 1", [b"1\tour row\n"]) if outstanding else (b"SELECT 1", None)
        with pytest.raises(TargetError, match=r"secret.*never named"):
            session.run(packet, body)
        assert not session.is_open
        assert interloper.has_asked
        with pytest.raises(TargetUnavailable):
            session.query("SELECT 1")
    assert interloper.received == b""


def test_a_name_is_resolved_again_at_each_connect(
    target_account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failover moves the name (SEMANTICS §8): the next connect goes where it leads by then."""
    server, resolve = target_account.server, socket.getaddrinfo
    named = dataclasses.replace(build_endpoint(target_account), host="writer.example")
    asked: list[str] = []
    leads_to = "127.0.0.2"  # nobody listens there

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        if host != named.host:
            return resolve(host, *args, **options)
        asked.append(leads_to)
        return resolve(leads_to, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(TargetUnavailable, match="refused"):
        Session.connect(named)
    leads_to = server.host
    with Session.connect(named) as session:
        assert session.query("SELECT 1") == [(1,)]
    assert asked == ["127.0.0.2", server.host]


def test_the_grant_for_a_denial_works_when_pasted(target_account: Account) -> None:
    """The server names the client's host, to which no account belongs."""
    server, user, database = target_account.server, target_account.user, target_account.database
    server.execute(
        f"CREATE TABLE {database}.t (id INT PRIMARY KEY); REVOKE INSERT ON {database}.* FROM {user}"
    )
    with Session.connect(build_endpoint(target_account)) as session:
        with pytest.raises(TargetError, match="INSERT command denied") as denied:
            session.execute("INSERT INTO t VALUES (1)")
        grant = re.search(r"run at the target: (GRANT .*;)$", denied.value.hint)
        assert grant
        server.execute(grant[1])
    with Session.connect(build_endpoint(target_account)) as session:
        assert session.execute("INSERT INTO t VALUES (1)") == 1
        with pytest.raises(TargetError, match="1227") as denied:
            session.execute("SET GLOBAL max_connections = 100")
        assert f"GRANT SYSTEM_VARIABLES_ADMIN ON *.* TO '{user}'@'%';" in denied.value.hint


def test_a_server_that_ends_a_silent_session_or_goes_down_under_a_statement_is_an_outage() -> None:
    """4031 and 1053; the server may be gone before the number is read."""
    with start_mysql() as server, make_target_account(server) as account:
        silent = Session.connect(build_endpoint(account))
        silent.run(b"SET SESSION wait_timeout = 1")
        known = f"SELECT 1 FROM information_schema.processlist WHERE id = {silent.connection_id}"
        wait_until(lambda: not server.execute(known))
        with pytest.raises(TargetUnavailable) as gone:
            silent.query("SELECT 1")
        assert gone.value.errno in (4031, 2006, 2013)
        busy = Session.connect(build_endpoint(account))
        tables = ", ".join(f"information_schema.columns {name}" for name in "abcd")
        work = threading.Thread(target=lambda: seen.append(_refuse(busy, f"SELECT COUNT(*) FROM {tables}")))
        seen: list[TargetError] = []
        work.start()
        working = (
            f"SELECT 1 FROM information_schema.processlist WHERE id = {busy.connection_id} AND info <> ''"
        )
        wait_until(lambda: server.execute(working))
        with server.connect() as administrator:
            administrator.cursor().execute("SHUTDOWN")
        work.join()
        wait_until(lambda: not server.is_running())
        assert isinstance(seen[0], TargetUnavailable)
        assert seen[0].errno in (1053, 2013)


def _refuse(session: Session, sql: str) -> TargetError:
    with pytest.raises(TargetError) as refused:
        session.query(sql)
    return refused.value
