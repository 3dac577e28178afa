"""`check` against real servers with each fault planted: the right check fails, and its fix mends it when pasted."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymysql
import pytest

from replicator.check.checklist import Outcome
from replicator.check.report import Report, check_files
from replicator.checkpoint import acquire, forget
from replicator.config import load
from replicator.model import TableName
from replicator.readers.mysql import MysqlReader
from replicator.servers import Server, start_mysql
from replicator.session import Session
from replicator.tablestate import Found, State, insert_pending, set_table
from replicator.testing import build_table
from tests.accounts import Account, limit_host, make_source_account, make_target_account
from tests.processes import PipelineFile, end, follow, write_pipeline
from tests.targets import Stranger, set_global

ORDERS = "CREATE TABLE orders (id INT PRIMARY KEY, sku VARCHAR(20) NOT NULL, price DECIMAL(12, 2))"


class Bench:
    """A pipeline file between two accounts whose content a test changes."""

    def __init__(self, folder: Path, source: Account, target: Account, patch: pytest.MonkeyPatch) -> None:
        self.source, self.target = source, target
        self.file: PipelineFile = write_pipeline(folder, source, target)
        for name, value in self.file.env.items():
            patch.setenv(name, value)
        source.server.execute(f"USE {source.database}; {ORDERS}; INSERT INTO orders VALUES (1, 'a', 2)")

    def change(self, part: str, **values: Any) -> None:
        content = json.loads(self.file.path.read_text())
        content[part] |= values
        self.file.path.write_text(json.dumps(content))

    def check(self) -> Report:
        return check_files([self.file.path])

    def failures(self) -> dict[str, Outcome]:
        return {item.id: item for item in self.check().outcomes if item.status == "fail"}

    def fail_with(self, *ids: str) -> Outcome:
        """Run the check: exactly these fail, each with a fix; returns the first one."""
        failures = self.failures()
        assert set(failures) == set(ids), failures
        assert all(item.fix for item in failures.values())
        return failures[ids[0]]

    def paste(self, server: Server, fix: str, database: str | None = None) -> None:
        """Run a fix as an administrator would."""
        server.execute(fix, database=database)

    def session(self) -> Session:
        return Session.connect(load(self.file.path).target)


@pytest.fixture
def bench(
    tmp_path: Path,
    mysql_source_account: Account,
    target_account: Account,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    return Bench(tmp_path, mysql_source_account, target_account, monkeypatch)


def outcome(report: Report, check: str) -> Outcome:
    return next(item for item in report.outcomes if item.id == check)


def test_all_is_well_with_either_source(
    tmp_path: Path, source_account: Account, target_account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, source_account, target_account, monkeypatch)
    report = bench.check()
    assert [item for item in report.outcomes if item.status == "fail"] == []
    assert report.exit_code == 0
    assert outcome(report, "target.tls").message.startswith("TLSv1.")
    plain = source_account.server.kind == "mariadb"  # started without certificates
    assert outcome(report, "source.tls").status == ("warn" if plain else "pass")
    assert "median round trip" in outcome(report, "source.rtt").message
    assert target_account.query("SHOW TABLES") == []  # nothing was made


# --- reachability and login -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_wrong_password(bench: Bench, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{side.upper()}_PASSWORD", "not this one")
    failed = bench.fail_with(f"{side}.login")
    assert "1045" in failed.message
    assert "not this one" not in str(bench.check())
    # The other side was looked at all the same.
    other = "target" if side == "source" else "source"
    assert outcome(bench.check(), f"{other}.login").status == "pass"


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_port_where_nobody_listens(bench: Bench, side: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        bench.change(side, port=taken.getsockname()[1])
        assert "refused" in bench.fail_with(f"{side}.reach").message
    assert bench.check().exit_code == 3


def test_a_port_that_speaks_another_protocol(bench: Bench) -> None:
    with Stranger(b"SSH-2.0-OpenSSH_9.2p1\r\n") as stranger:
        bench.change("target", port=stranger.port)
        failed = bench.fail_with("target.login")
        assert "not speak MySQL" in failed.message
        assert bench.file.run("load", "FILE").returncode == 5
        ended = bench.file.run("run", "FILE")  # waiting would mend nothing
        assert ended.returncode == 5
        assert "does not speak MySQL" in " ".join(ended.stderr.split())


STRANGERS = {
    "http": (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", "speaks HTTP, not MySQL"),
    "postgres": (b"", b"N", "speaks PostgreSQL's protocol, not MySQL"),
    "mysqlx": (bytes.fromhex("050000000b08051a00"), b"", "does not speak MySQL"),
}


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("kind", STRANGERS)
def test_a_port_where_we_are_to_speak_first_is_no_outage(bench: Bench, side: str, kind: str) -> None:
    """Nothing greets us there: whoever waits for a MySQL server would wait for ever."""
    greeting, answer, said = STRANGERS[kind]
    with Stranger(greeting, answer=answer) as stranger:
        bench.change(side, port=stranger.port)
        failed = bench.fail_with(f"{side}.login")
        assert said in failed.message
        ended = bench.file.run("run", "FILE")
        assert ended.returncode == (4 if side == "source" else 5), ended.stderr
        assert said in " ".join(ended.stderr.split())


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_proxy_without_a_server_behind_it_is_waited_for_in_these_words(bench: Bench, side: str) -> None:
    with Stranger(b"") as proxy:
        bench.change(side, port=proxy.port)
        assert "a proxy without a server" in bench.fail_with(f"{side}.login").message
        process = bench.file.start("run", "FILE")
        follow(process, "a_proxy_without_a_server")
        assert end(process)[0] == 0


def test_what_a_target_that_refuses_us_leaves_unsaid_is_said(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the source alone tells of its tables, and that the target's were not looked at."""
    bench.source.server.execute(
        f"ALTER TABLE {bench.source.database}.orders PARTITION BY HASH (id) PARTITIONS 2"
    )
    assert "artition" in outcome(bench.check(), "tables.differences").message
    monkeypatch.setenv("TARGET_PASSWORD", "not this one")
    report = bench.check()
    assert outcome(report, "target.login").status == "fail"
    assert "artition" in outcome(report, "tables.differences").message
    unseen = outcome(report, "target.table")
    assert (unseen.status, unseen.subject) == ("warn", "1 target tables")
    assert "not compared" in unseen.message


@pytest.mark.parametrize("side", ["source", "target"])
def test_an_account_without_its_database_is_granted_it_under_its_own_host(bench: Bench, side: str) -> None:
    account = getattr(bench, side)
    with limit_host(account) as name:
        account.server.execute(f"REVOKE ALL ON {account.database}.* FROM {name}")
        failed = bench.fail_with(f"{side}.database")
        assert "1044" in failed.message
        bench.paste(account.server, failed.fix)
        assert bench.failures() == {}


def test_an_account_that_may_not_come_from_here(bench: Bench, tmp_path: Path) -> None:
    """Nobody may: a server that lets anybody in from this host speaks of a wrong password instead."""
    with start_mysql() as server, make_target_account(server) as account:
        server.execute(f"RENAME USER {account.user} TO {account.user}@'10.9.9.9'")
        server.execute("RENAME USER root@'%' TO root@'10.9.9.9'; FLUSH PRIVILEGES")
        bench.change(
            "target", port=server.port, user=account.user, database=account.database, tls={"mode": "required"}
        )
        failed = bench.fail_with("target.login")
        assert "1130" in failed.message
        bench.paste(server, failed.fix)
        assert bench.failures() == {}


@pytest.mark.parametrize(("name", "number"), [("max_connections", "1040"), ("max_user_connections", "1203")])
def test_a_server_that_takes_no_further_login(bench: Bench, name: str, number: str) -> None:
    server = bench.target.server
    with server.connect() as administrator, contextlib.ExitStack() as stack:
        cursor = administrator.cursor()
        stack.enter_context(set_global(server, name, "1"))
        with contextlib.suppress(pymysql.MySQLError):
            for _ in range(2):
                stack.enter_context(bench.target.connect())
        failed = bench.fail_with("target.login")
        assert number in failed.message
        cursor.execute(failed.fix)
        assert bench.failures() == {}


def test_an_account_that_has_all_its_connections_is_told_apart_from_a_wrong_password(bench: Bench) -> None:
    server, user = bench.target.server, bench.target.user
    server.execute(f"ALTER USER {user} WITH MAX_USER_CONNECTIONS 1")
    with bench.target.connect():
        failed = bench.fail_with("target.login")
    assert "1226" in failed.message
    assert "password" not in failed.fix
    bench.paste(server, failed.fix)
    assert bench.failures() == {}


def test_a_host_that_does_not_resolve(bench: Bench) -> None:
    bench.change("target", host="no-such-host.invalid")
    assert "does not resolve" in bench.fail_with("target.resolve").message


def test_a_database_that_is_not_there(bench: Bench) -> None:
    bench.change("source", database="nowhere", tls={"mode": "required"})
    assert set(bench.failures()) == {"source.database"}


def test_tls_that_the_server_does_not_offer(
    tmp_path: Path,
    mariadb_source_account: Account,
    target_account: Account,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(tmp_path, mariadb_source_account, target_account, monkeypatch)
    bench.change("source", tls={"mode": "required"})
    failed = bench.fail_with("source.tls")
    assert "offers no TLS" in failed.message


def test_tls_that_the_server_demands(bench: Bench) -> None:
    bench.change("target", tls={"mode": "disabled"})
    with set_global(bench.target.server, "require_secure_transport", "ON"):
        assert "demands TLS" in bench.fail_with("target.tls").message


def test_the_wrong_product(bench: Bench) -> None:
    bench.change("source", type="mariadb")
    assert "type: mysql" in bench.fail_with("source.version").fix


# --- the source's settings and rights ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("binlog_format", "STATEMENT"), ("binlog_row_image", "MINIMAL"), ("binlog_row_metadata", "MINIMAL")],
)
def test_a_setting_of_the_log(bench: Bench, name: str, value: str) -> None:
    server = bench.source.server
    before = server.execute(f"SELECT @@GLOBAL.{name}")[0][0]
    server.execute(f"SET GLOBAL {name} = '{value}'")
    try:
        failed = bench.fail_with(f"source.{name}")
        assert value in failed.message
        bench.paste(server, failed.fix)
        assert bench.failures() == {}
    finally:
        server.execute(f"SET GLOBAL {name} = '{before}'; RESET PERSIST IF EXISTS {name}")


@pytest.mark.parametrize("right", ["REPLICATION SLAVE", "REPLICATION CLIENT", "XA_RECOVER_ADMIN"])
def test_a_missing_right_at_the_source(bench: Bench, right: str) -> None:
    server = bench.source.server
    server.execute(f"REVOKE {right} ON *.* FROM {bench.source.user}")
    failures = bench.failures()
    failed = failures[f"source.grant.{right.lower().replace(' ', '_')}"]
    assert right in failed.message
    bench.paste(server, failed.fix)
    assert bench.failures() == {}


def test_a_source_without_a_log(
    tmp_path: Path, target_account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        start_mysql(log_bin=False, gtid_mode=None, enforce_gtid_consistency=None) as server,
        make_source_account(server) as source,
    ):
        bench = Bench(tmp_path, source, target_account, monkeypatch)
        assert "log_bin" in bench.failures()["source.log_bin"].fix


# --- tables -----------------------------------------------------------------------------------------------------------


def test_every_table_without_a_key_is_named(bench: Bench) -> None:
    bench.source.server.execute(
        f"USE {bench.source.database}; CREATE TABLE k1 (a INT); CREATE TABLE k2 (a INT)"
    )
    failed = [item for item in bench.check().outcomes if item.status == "fail"]
    assert [item.id for item in failed] == ["tables.key", "tables.key"]
    assert [item.subject for item in failed] == [f"{bench.source.database}.k{i}" for i in (1, 2)]
    for item in failed:
        bench.paste(bench.source.server, item.fix)
    assert bench.failures() == {}


def test_a_name_that_the_source_does_not_have(bench: Bench) -> None:
    bench.change("tables", **{f"{bench.source.database}.ordres": {}})
    failed = bench.fail_with("tables.selected")
    assert "orders" in failed.fix
    assert str(bench.file.path) in failed.subject
    assert bench.check().exit_code == 3


# --- the target -------------------------------------------------------------------------------------------------------


def test_a_missing_right_at_the_target(bench: Bench) -> None:
    server, user = bench.target.server, bench.target.user
    server.execute(f"REVOKE INDEX, REFERENCES ON {bench.target.database}.* FROM {user}")
    failed = bench.fail_with("target.grants")
    assert "lacks INDEX, REFERENCES" in failed.message
    bench.paste(server, failed.fix)
    assert bench.failures() == {}


def test_rights_that_come_by_a_role(bench: Bench) -> None:
    server, user = bench.target.server, bench.target.user
    role, database = f"{user}_role", bench.target.database
    server.execute(f"CREATE ROLE {role}; GRANT INDEX ON {database}.* TO {role}; GRANT {role} TO {user}")
    try:
        server.execute(f"REVOKE INDEX ON {database}.* FROM {user}")
        bench.fail_with("target.grants")  # granted, not active
        server.execute(f"SET DEFAULT ROLE ALL TO {user}")
        assert bench.failures() == {}
    finally:
        server.execute(f"DROP ROLE {role}")


def test_a_target_table_that_cannot_hold_its_source(bench: Bench) -> None:
    database = bench.target.database
    narrow = ORDERS.replace("VARCHAR(20)", "VARCHAR(10)").replace(", price DECIMAL(12, 2)", "")
    bench.target.query(narrow)
    failed = [item for item in bench.check().outcomes if item.status == "fail"]
    assert {item.id for item in failed} == {"target.table"}
    assert [item.subject.rpartition(" ")[2] for item in failed] == ["sku", "price"]
    for item in failed:
        bench.paste(bench.target.server, item.fix, database)
    assert bench.failures() == {}


def test_a_table_that_must_not_be_created(bench: Bench) -> None:
    bench.change("tables", **{f"{bench.source.database}.orders": {"create": False}})
    assert "create: false" in bench.fail_with("target.table").message


def test_a_loaded_table_that_is_gone_or_went_elsewhere(bench: Bench, identity: str) -> None:
    name = TableName(bench.source.database, "orders")
    reader = MysqlReader(load(bench.file.path).source)
    with bench.session() as session:
        lease = acquire(session, "shop", identity)
        insert_pending(session, lease, reader.describe({name: "orders"}))
        set_table(session, lease, name, state=State.STREAMING)
        store_position(session, str(reader.position()))
        reader.close()
        assert "gone from the target" in bench.fail_with("target.table").message
        bench.change("tables", **{str(name): {"to": "elsewhere"}})
        assert "was loaded into orders" in bench.fail_with("target.table").message


def test_rows_that_this_pipeline_brought_are_nobody_elses(bench: Bench, identity: str) -> None:
    """A load that was killed: its rows go and come again, unless somebody else has written meanwhile (SEMANTICS §6.1)."""
    name = TableName(bench.source.database, "orders")
    bench.target.query(ORDERS)
    bench.target.server.execute(f"INSERT INTO {bench.target.database}.orders VALUES (1, 'a', 2)")
    with bench.session() as session:
        lease = acquire(session, "shop", identity)
        insert_pending(session, lease, [build_table("orders", schema=name.schema)])
        set_table(session, lease, name, state=State.LOADING, found=Found.MISSING, rows_loaded=1)
        assert bench.failures() == {}
        bench.target.server.execute(f"INSERT INTO {bench.target.database}.orders VALUES (2, 'theirs', 2)")
        assert "1 rows" in bench.fail_with("target.rows").message


def test_rows_of_others_need_a_decision(bench: Bench) -> None:
    bench.target.query(ORDERS)
    assert bench.failures() == {}  # empty tables are nobody's
    bench.target.server.execute(f"INSERT INTO {bench.target.database}.orders VALUES (7, 'theirs', 1)")
    assert "1 rows" in bench.fail_with("target.rows").message
    bench.change("tables", **{f"{bench.source.database}.orders": {"existing_rows": "merge"}})
    assert bench.failures() == {}


def test_local_infile_off_is_a_warning(bench: Bench) -> None:
    with set_global(bench.target.server, "local_infile", "OFF"):
        report = bench.check()
        warned = outcome(report, "target.local_infile")
        assert warned.status == "warn"
        assert report.exit_code == 0
        bench.paste(bench.target.server, warned.fix)
        assert outcome(bench.check(), "target.local_infile").status == "pass"


def test_a_read_only_target_is_named_and_opened_by_the_fix(bench: Bench) -> None:
    with (
        set_global(bench.target.server, "transaction_read_only", "ON"),
        set_global(bench.target.server, "read_only", "ON"),
        set_global(bench.target.server, "super_read_only", "ON"),
    ):
        failed = bench.fail_with("target.writable")
        bench.paste(bench.target.server, failed.fix)
        assert "target.writable" not in bench.failures()


def test_a_small_packet_is_a_warning(bench: Bench) -> None:
    with set_global(bench.target.server, "max_allowed_packet", str(4 << 20)):
        warned = outcome(bench.check(), "target.packet")
        assert warned.status == "warn"
        bench.paste(bench.target.server, warned.fix)
        assert outcome(bench.check(), "target.packet").status == "pass"


# --- what earlier runs left -------------------------------------------------------------------------------------------


@pytest.fixture
def identity(bench: Bench) -> Iterator[str]:
    reader = MysqlReader(load(bench.file.path).source)
    yield reader.identity
    reader.close()


def test_another_server_behind_the_same_address(bench: Bench, identity: str) -> None:
    with bench.session() as session:
        acquire(session, "shop", "mysql:another")
    failed = bench.fail_with("pipeline.identity")
    assert "mysql:another" in failed.message
    assert identity in failed.message


def test_a_pipeline_that_runs_is_a_warning(bench: Bench, identity: str) -> None:
    with bench.session() as session:
        acquire(session, "shop", identity)
        report = bench.check()
    assert outcome(report, "pipeline.running").status == "warn"
    assert report.exit_code == 0


def test_a_position_that_was_purged(bench: Bench, identity: str) -> None:
    reader = MysqlReader(load(bench.file.path).source)
    position = str(reader.position())
    reader.close()
    with bench.session() as session:
        acquire(session, "shop", identity)
        store_position(session, position)
    assert bench.failures() == {}
    server = bench.source.server
    server.execute(f"INSERT INTO {bench.source.database}.orders VALUES (2, 'b', 3)")
    server.execute("FLUSH BINARY LOGS")
    last = server.execute("SHOW BINARY LOGS")[-1][0]
    server.execute(f"PURGE BINARY LOGS TO '{last}'")
    assert "drop" in bench.fail_with("pipeline.position").fix


def store_position(session: Session, position: str) -> None:
    session.execute("UPDATE _replicator_checkpoint SET position = %s, read_from = %s", position, position)
    session.commit()


def test_a_position_of_a_table_that_cannot_be_read(bench: Bench, identity: str) -> None:
    name = TableName(bench.source.database, "orders")
    bench.target.query(ORDERS)
    reader = MysqlReader(load(bench.file.path).source)
    with bench.session() as session:
        lease = acquire(session, "shop", identity)
        store_position(session, str(reader.position()))
        reader.close()
        insert_pending(session, lease, [build_table("orders", schema=name.schema)])
        set_table(session, lease, name, state=State.CATCHING_UP, position="damaged")
    assert bench.fail_with("pipeline.position").subject == str(name)


def test_after_a_drop_every_table_is_loaded_anew(bench: Bench, identity: str) -> None:
    name = TableName(bench.source.database, "orders")
    with bench.session() as session:
        lease = acquire(session, "shop", identity)
        insert_pending(session, lease, [build_table("orders", schema=name.schema)])
        set_table(session, lease, name, state=State.STREAMING, found=Found.MISSING)
        forget(session, "shop")
    assert outcome(bench.check(), "target.table").message == "will be created"


def test_fixes_name_the_file_itself(bench: Bench) -> None:
    bench.change("tables", **{f"{bench.source.database}.orders": {"create": False}})
    assert f"replicator plan {bench.file.path} --ddl" in bench.fail_with("target.table").fix


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_json_and_ends_with_3(bench: Bench) -> None:
    file = replace(bench.file, env=bench.file.env | {"TARGET_PASSWORD": "wrong"})
    answer = json.loads(file.must("check", "FILE", "--json", exit_code=3))
    assert answer["ok"] is False
    (failed,) = [check for check in answer["checks"] if check["status"] == "fail"]
    assert failed["id"] == "target.login"
    assert {"id", "status", "subject", "message", "fix"} <= failed.keys()
