"""Tables built at a real target with the managed account hold what their sources hold, and unfit ones are refused (I10)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pymysql
import pytest

from replicator import ddl, target
from replicator.config import Secret, Target, Tls, TlsMode
from replicator.errors import SchemaMismatch
from replicator.model import TableName, TableSchema
from replicator.servers import Server
from replicator.session import Session
from replicator.typemap.collation import COLLATIONS, choose_collation, is_no_pad
from tests.accounts import Account
from tests.targets import set_global
from tests.type_zoo import describe_all, make_zoo

SAKILA = "sakila/mysql-official/sakila-schema.sql"
CHINOOK = "chinook/ChinookDatabase/DataSources/Chinook_MySql.sql"


def open_session(account: Account) -> Session:
    server = account.server
    secret = Secret(account.password)
    tls = Tls(TlsMode.REQUIRED)
    return Session.connect(Target(server.host, server.port, account.user, secret, account.database, tls))


@pytest.fixture
def session(target_account: Account) -> Iterator[Session]:
    with open_session(target_account) as session:
        yield session


@pytest.fixture
def strict_session(target_account: Account) -> Iterator[Session]:
    """On a server that refuses tables without a primary key, and adds one where it can (SEMANTICS §8)."""
    with (
        set_global(target_account.server, "sql_require_primary_key", "ON"),
        set_global(target_account.server, "sql_generate_invisible_primary_key", "ON"),
        open_session(target_account) as session,
    ):
        yield session


def build(session: Session, schemas: list[TableSchema]) -> list[TableSchema]:
    """Make tables, indexes and foreign keys; return the schemas as fitted to this server."""
    fitted = [target.fit_expressions(session, schema) for schema in schemas]
    selected = {schema.source: schema for schema in fitted}
    for schema in fitted:
        session.execute(ddl.build_create_table(schema))
    for schema in fitted:
        for sql in (*ddl.build_indexes(schema), *ddl.build_foreign_keys(schema, selected)):
            session.execute(sql)
    return fitted


def find_fatal(session: Session, schemas: list[TableSchema]) -> list[str]:
    tables = target.read_tables(session, [schema.target for schema in schemas])
    return [
        f"{schema.target}:{item.column}: {item.message}"
        for schema in schemas
        for item in target.compare(schema, tables[schema.target])
        if item.fatal
    ]


def index_names(session: Session, table: str) -> set[str]:
    sql = "SELECT INDEX_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s"
    return {row[0] for row in session.query(sql, table)}


def test_these_tests_run_with_an_ordinary_account(target_account: Account) -> None:
    """The list of SEMANTICS §8, on one database, and nothing else: no global right, no role, no grant option."""
    account = target_account
    every, own = sorted((text for (text,) in account.query("SHOW GRANTS")), key=len)
    assert every == f"GRANT USAGE ON *.* TO `{account.user}`@`%`"
    rights, _, rest = own.removeprefix("GRANT ").partition(" ON ")
    assert rest == f"`{account.database}`.* TO `{account.user}`@`%`"
    allowed = ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP", "INDEX", "REFERENCES"]
    assert set(rights.split(", ")) == {*allowed, "CREATE TEMPORARY TABLES"}
    assert account.query("SELECT CURRENT_ROLE()") == [("NONE",)]


def test_every_type_is_built_and_fits(source_account: Account, strict_session: Session) -> None:
    make_zoo(source_account.server, source_account.database)
    with source_account.connect() as connection:
        schemas = describe_all(connection, source_account.database, skip=("versioned", "keyless"))
    fitted = build(strict_session, schemas)
    assert find_fatal(strict_session, schemas) == []
    assert index_names(strict_session, "unique_only") == {"PRIMARY", "nullable", "prefixed"}
    assert index_names(strict_session, "late_counter") == {"PRIMARY", "counter"}
    notes = [note for schema in fitted for note in schema.notes if "without DEFAULT" in note]
    dropped = {note.split(":")[1] for note in notes}
    assert dropped == ({"sq", "js"} if source_account.server.kind == "mariadb" else set())


@pytest.mark.parametrize("script", [SAKILA, CHINOOK])
def test_real_schemas_are_built_and_fit(
    script: str, source_server: Server, session: Session, fixtures_dir: Path
) -> None:
    database = "sakila" if script == SAKILA else "Chinook"
    try:
        source_server.load_file(fixtures_dir / script)
        with source_server.connect() as connection:
            schemas = describe_all(connection, database)
    finally:
        source_server.execute(f"DROP DATABASE IF EXISTS {database}")
    assert len(schemas) > 10
    build(session, schemas)
    assert find_fatal(session, schemas) == []
    keys = session.query(
        "SELECT COUNT(*) FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE CONSTRAINT_SCHEMA = DATABASE()"
    )
    assert keys[0][0] == sum(len(schema.foreign_keys) for schema in schemas) > 0


def describe_one(account: Account, sql: str) -> TableSchema:
    account.server.execute(sql, database=account.database)
    with account.connect() as connection:
        return describe_all(connection, account.database)[0]


def test_default_the_target_refuses_is_left_out_and_told(
    mariadb_source_account: Account, session: Session
) -> None:
    schema = describe_one(
        mariadb_source_account,
        "CREATE TABLE t (id INT PRIMARY KEY, a TEXT DEFAULT JSON_DETAILED('{}'), b CHAR(36) DEFAULT UUID())",
    )
    fitted = target.fit_expressions(session, schema)
    assert [column.default for column in fitted.columns] == [None, None, "(uuid())"]
    assert fitted.notes == (f"{schema.source}:a: created without DEFAULT (json_detailed('{{}}'))",)
    session.execute(ddl.build_create_table(fitted))


def test_generated_column_the_target_refuses_is_named(
    mariadb_source_account: Account, session: Session
) -> None:
    schema = describe_one(
        mariadb_source_account,
        "CREATE TABLE t (id INT PRIMARY KEY, a TEXT, g INT AS (id + 1), h TEXT AS (JSON_DETAILED(a)) STORED)",
    )
    with pytest.raises(SchemaMismatch, match=r"t:h: the target refuses this generated column") as caught:
        target.fit_expressions(session, schema)
    assert "create the table t yourself" in caught.value.hint


def test_foreign_keys_only_between_mirrored_tables(source_account: Account, session: Session) -> None:
    make_zoo(source_account.server, source_account.database)
    with source_account.connect() as connection:
        zoo = {
            s.source.table: s for s in describe_all(connection, source_account.database, skip=("versioned",))
        }
    child = zoo["children"]
    assert ddl.build_foreign_keys(child, {child.source: child}) == []
    both = {child.source: child, zoo["parents"].source: zoo["parents"]}
    build(session, list(both.values()))
    session.execute("SET foreign_key_checks = 0; INSERT INTO children VALUES (1, 1, 1), (2, NULL, 5)")
    assert target.count_orphans(session, child, child.foreign_keys[0], zoo["parents"]) == 1
    assert target.external_children(session, ["children", "parents"]) == []
    (outside,) = target.external_children(session, ["parents"])
    assert (outside.child, outside.parent) == ("children", "parents")


UNFIT = {
    "missing column": ("id INT PRIMARY KEY", "name: the target lacks this column"),
    "narrower integer": ("id SMALLINT PRIMARY KEY, name VARCHAR(20)", "id: the target has smallint"),
    "unsigned": ("id INT UNSIGNED PRIMARY KEY, name VARCHAR(20)", "id: the target has int unsigned"),
    "shorter text": ("id INT PRIMARY KEY, name VARCHAR(19)", r"name: the target has varchar\(19\)"),
    "narrow charset": ("id INT PRIMARY KEY, name VARCHAR(20) CHARACTER SET latin1", "latin1 cannot hold"),
    "not null": ("id INT PRIMARY KEY, name VARCHAR(20) NOT NULL", "name: NOT NULL at the target"),
    "no key": ("id INT, name VARCHAR(20), KEY (id)", r"no unique key on exactly \(id\)"),
    "other unique key": (
        "id INT PRIMARY KEY, name VARCHAR(20), UNIQUE (name)",
        "unique key name is not at the source",
    ),
    "generated": ("id INT PRIMARY KEY, name VARCHAR(20) AS ('x')", "name: the target generates this column"),
    "demanding column": (
        "id INT PRIMARY KEY, name VARCHAR(20), app INT NOT NULL",
        "app: NOT NULL without a default",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_unfit_table_is_refused_before_the_first_row(
    case: str, mysql_source_account: Account, session: Session
) -> None:
    schema = describe_one(mysql_source_account, "CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR(20))")
    columns, message = UNFIT[case]
    session.execute(f"CREATE TABLE t ({columns})")
    with pytest.raises(SchemaMismatch, match=message):
        target.refuse_unfit(schema, target.read_tables(session, ["t"])["t"])


def test_wider_table_with_the_apps_own_columns_fits(mysql_source_account: Account, session: Session) -> None:
    schema = describe_one(mysql_source_account, "CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR(20))")
    session.execute(
        "CREATE TABLE t (ID BIGINT PRIMARY KEY, name TEXT, app INT, seen TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)"
    )
    assert target.refuse_unfit(schema, target.read_tables(session, ["t"])["t"]) == []


def test_coarser_collation_on_a_unique_key_is_refused(
    mysql_source_account: Account, session: Session
) -> None:
    schema = describe_one(
        mysql_source_account,
        "CREATE TABLE t (k VARCHAR(20) COLLATE utf8mb4_0900_as_cs PRIMARY KEY, v VARCHAR(9) COLLATE utf8mb4_bin)",
    )
    session.execute("CREATE TABLE t (k VARCHAR(20) COLLATE utf8mb4_0900_ai_ci PRIMARY KEY, v VARCHAR(9))")
    with pytest.raises(SchemaMismatch, match="k: unique key PRIMARY compares by utf8mb4_0900_ai_ci"):
        target.refuse_unfit(schema, target.read_tables(session, ["t"])["t"])


def test_fingerprint_follows_the_catalog(session: Session) -> None:
    seen = [target.fingerprint(session, "t")]
    assert seen == [""]
    for sql in (
        "CREATE TABLE t (id BIGINT PRIMARY KEY, a INT)",
        "ALTER TABLE t ADD KEY by_a (a)",
        "ALTER TABLE t MODIFY a BIGINT",
        "ALTER TABLE t ADD CONSTRAINT self FOREIGN KEY (a) REFERENCES t (id)",
    ):
        session.execute(sql)
        assert target.fingerprint(session, "t") == target.fingerprint(session, "t")
        seen.append(target.fingerprint(session, "t"))
    assert len(set(seen)) == 5


def test_rows_decide_emptiness(session: Session) -> None:
    assert not target.exists(session, "t")
    session.execute("CREATE TABLE t (id INT PRIMARY KEY)")
    assert target.exists(session, "t")
    assert target.is_empty(session, "t")
    session.execute("INSERT INTO t VALUES (1), (2)")
    assert not target.is_empty(session, "t")
    assert target.count_rows(session, "t") == 2


def test_names_that_meet_are_refused(mysql_source_account: Account, session: Session) -> None:
    schema = describe_one(mysql_source_account, "CREATE TABLE t (id INT PRIMARY KEY)")
    other = replace(schema, source=TableName("elsewhere", "T"), target="T")
    told = "share the target table t: the target ignores the case"
    with pytest.raises(SchemaMismatch, match=told) if target.folds_names(session) else nullcontext():
        target.check_names(session, [schema, other])

    class Answer:
        def __init__(self, folds: int) -> None:
            self.folds = folds

        def query(self, sql: str, *args: object) -> list[tuple[int]]:
            return [(self.folds,)]

    target.check_names(Answer(0), [schema, other])
    for folds in (1, 2):
        with pytest.raises(SchemaMismatch, match=told):
            target.check_names(Answer(folds), [schema, other])


def test_members_that_the_catalog_cannot_print_fit(mysql_source_account: Account, session: Session) -> None:
    schema = describe_one(
        mysql_source_account,
        "CREATE TABLE t (id INT PRIMARY KEY, e ENUM('😀','z')); INSERT INTO t VALUES (1, '😀')",
    )
    build(session, [schema])
    assert find_fatal(session, [schema]) == []
    session.execute("INSERT INTO t VALUES (1, '😀')")
    assert session.query("SELECT e FROM t") == [("😀",)]


def test_every_collation_of_mariadb_maps_to_one_that_the_target_has(
    mariadb_source: Server, mysql_target: Server, session: Session
) -> None:
    rows = session.query("SELECT COLLATION_NAME, PAD_ATTRIBUTE FROM information_schema.COLLATIONS")
    pads = {name: pad == "PAD SPACE" for name, pad in rows}
    if mysql_target.version >= (9, 0):
        assert pads.keys() == COLLATIONS
    names = mariadb_source.execute(
        "SELECT FULL_COLLATION_NAME FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY"
    )
    assert len(names) > 300
    for (name,) in names:
        chosen = choose_collation(name, same_product=False).collation
        assert chosen in pads
        assert pads[chosen] is not is_no_pad(chosen)
        assert not (pads[chosen] and is_no_pad(name))


CANDIDATES = (
    *"aAáÁäÄåÅæoOöÖøØőuUüÜűsSßzZžcCčçiIıİlLłnNñyýdđðtþeEéêwvV1१١あアｱがカ가한中",
    *(
        "",
        " ",
        "a ",
        "a  ",
        "a\t",
        "ae",
        "AE",
        "ss",
        "SS",
        "sz",
        "ch",
        "c",
        "h",
        "lj",
        "ll",
        "a\u0301",
        "aa",
        "oe",
        "th",
    ),
)


def test_what_mariadb_tells_apart_meets_in_no_unique_key_of_the_target(
    mariadb_source: Server, mysql_target: Server
) -> None:
    """SEMANTICS §8, over every collation: a unique key takes at the target whatever it took at the source."""
    names = mariadb_source.execute(
        "SELECT FULL_COLLATION_NAME FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY"
    )
    met = list[tuple[str, str]]()
    with (
        mariadb_source.connect(charset="utf8mb4") as origin,
        mysql_target.connect(charset="utf8mb4") as end,
        origin.cursor() as source,
        end.cursor() as mysql,
    ):
        for server, cursor in ((mariadb_source, source), (mysql_target, mysql)):
            server.execute("CREATE DATABASE IF NOT EXISTS collations")
            cursor.execute("USE collations")
        for (name,) in names:
            chosen = choose_collation(name, same_product=False).collation
            for cursor, collation in ((source, name), (mysql, chosen)):
                cursor.execute(f"CREATE TEMPORARY TABLE c (v VARCHAR(9) COLLATE {collation}, UNIQUE (v))")
            source.executemany("INSERT IGNORE INTO c VALUES (%s)", [(each,) for each in CANDIDATES])
            source.execute("SELECT CONVERT(v USING utf8mb4) FROM c")
            rows = source.fetchall()
            assert len(rows) > 20
            try:
                mysql.executemany("INSERT INTO c VALUES (%s)", rows)
            except pymysql.IntegrityError as error:
                met.append((name, str(error)))
            for cursor in (source, mysql):
                cursor.execute("DROP TEMPORARY TABLE c")
    for server in (mariadb_source, mysql_target):
        server.execute("DROP DATABASE collations")
    assert len(names) > 1000
    assert met == []
