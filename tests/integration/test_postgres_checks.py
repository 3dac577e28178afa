"""What a PostgreSQL source must be before it is read: each fault is named by `check`, ends `load`, and goes by its fix."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.certificates import make_certificates
from replicator.pgserver import PostgresServer, start_postgres
from tests.accounts import Account
from tests.pgaccounts import PostgresAccount, make_postgres_account
from tests.processes import PipelineFile, end, follow, write_pipeline
from tests.targets import Line

FAULTS: dict[str, tuple[str, list[str]]] = {
    "no replication": ("source.grant.replication", ["ALTER ROLE {account} NOREPLICATION"]),
    "no create": ("source.grant.create", ["REVOKE CREATE ON DATABASE {account} FROM {account}"]),
    "not the owner": (
        "source.owner",
        ["ALTER TABLE {account}.t OWNER TO root", "GRANT SELECT ON {account}.t TO {account}"],
    ),
    "may not read": ("source.grant.select", ["REVOKE SELECT ON {account}.t FROM {account}"]),
    "unlogged": ("tables.unlogged", ["ALTER TABLE {account}.t SET UNLOGGED"]),
    "no identity": ("tables.identity", ["ALTER TABLE {account}.t REPLICA IDENTITY NOTHING"]),
    "row security": (
        "source.row_security",
        [
            "ALTER TABLE {account}.t ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE {account}.t FORCE ROW LEVEL SECURITY",
        ],
    ),
}


def check(pipeline: PipelineFile) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(pipeline.run("check", "FILE", "--json").stdout)["checks"]
    return [item for item in found if item["status"] == "fail"]


def make(account: PostgresAccount, target: Account, folder: Path) -> PipelineFile:
    with account.connect() as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    return write_pipeline(folder, account, target)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_mended_by_what_is_said(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path, fault: str
) -> None:
    source = postgres_account
    pipeline = make(source, target_account, tmp_path)
    expected, statements = FAULTS[fault]
    filled = [text.format(account=source.database) for text in statements]
    source.server.execute(filled, database=source.database)
    failed = check(pipeline)
    assert [item["id"] for item in failed] == [expected]
    refused = pipeline.run("load", "FILE")
    assert refused.returncode == 4, refused.stderr
    assert (
        source.server.execute("SELECT 1 FROM pg_replication_slots WHERE database = %s", (source.database,))
        == []
    )
    source.server.execute(failed[0]["fix"], database=source.database)
    assert check(pipeline) == []
    pipeline.must("load", "FILE")


@pytest.fixture
def other_owner(postgres_account: PostgresAccount) -> Iterator[str]:
    """The name for a role that the test makes; what it then owns goes with it."""
    server, name = postgres_account.server, f"{postgres_account.database}_owner"
    yield name
    server.execute([f"DROP OWNED BY {name}", f"DROP ROLE {name}"], database=postgres_account.database)


@pytest.mark.parametrize("rights", ["NOSUPERUSER", "SUPERUSER", "IN ROLE root"])
def test_what_mends_the_ownership_makes_no_superuser(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path, other_owner: str, rights: str
) -> None:
    """As the grant of a role would that is one, or belongs to one."""
    source = postgres_account
    pipeline = make(source, target_account, tmp_path)
    source.server.execute(
        [
            f"CREATE ROLE {other_owner} {rights}",
            f"ALTER TABLE {source.database}.t OWNER TO {other_owner}",
            f"GRANT SELECT ON {source.database}.t TO {source.user}",
        ],
        database=source.database,
    )
    [failed] = check(pipeline)
    assert failed["id"] == "source.owner"
    assert ("superuser" in failed["message"]) == (rights != "NOSUPERUSER")
    source.server.execute(failed["fix"], database=source.database)
    assert source.query("SELECT rolname FROM pg_roles WHERE rolsuper AND pg_has_role(oid, 'MEMBER')") == []
    assert check(pipeline) == []
    pipeline.must("load", "FILE")


def test_a_deferrable_key_is_no_identity(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """Once it is published, PostgreSQL refuses the application's own UPDATE."""
    source = postgres_account
    pipeline = make(source, target_account, tmp_path)
    source.query("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id) DEFERRABLE")
    fixes = {item["id"]: item["fix"] for item in check(pipeline)}
    assert set(fixes) == {"tables.key", "tables.identity"}
    assert pipeline.run("load", "FILE").returncode == 4
    source.query(fixes["tables.identity"])
    assert check(pipeline) == []
    pipeline.must("load", "FILE")
    source.query("INSERT INTO t VALUES (1)")
    source.query("UPDATE t SET id = 2")
    pipeline.must("run", "FILE", "--until-current")
    assert target_account.query("SELECT id FROM t") == [(2,)]


def test_wal_level_slots_and_senders(target_account: Account, tmp_path: Path) -> None:
    """All at their worst, mended by what is said; then all are used up by the pipeline itself, which is no fault."""
    with (
        start_postgres(wal_level=None, max_replication_slots=None, max_wal_senders=None) as server,
        make_postgres_account(server) as account,
    ):
        server.execute(["ALTER SYSTEM SET max_replication_slots = 0", "ALTER SYSTEM SET max_wal_senders = 0"])
        server.restart()
        pipeline = make(account, target_account, tmp_path)
        failed = check(pipeline)
        assert {item["id"] for item in failed} == {"source.wal_level", "source.slots", "source.senders"}
        refused = pipeline.run("load", "FILE")
        assert refused.returncode == 4, refused.stderr
        for item in failed:
            server.execute(item["fix"].partition("--")[0])
        server.restart()
        assert check(pipeline) == []
        pipeline.must("load", "FILE")
        server.execute(["ALTER SYSTEM SET max_replication_slots = 1", "ALTER SYSTEM SET max_wal_senders = 1"])
        server.restart()
        assert check(pipeline) == []
        process = pipeline.start("run", "FILE")
        follow(process, "state=streaming")
        found = json.loads(pipeline.must("check", "FILE", "--json"))["checks"]
        full = {item["id"] for item in found if "could not be loaded" in item["message"]}
        assert full == {"source.slots", "source.senders"}
        other = write_pipeline(tmp_path, account, target_account, name="other")
        assert {item["id"] for item in check(other)} >= {"source.slots", "source.senders"}
        pipeline.must("run", "FILE", "--until-current")  # the newcomer takes slot and sender over
        assert end(process)[0] == 5


def test_a_publication_that_somebody_changed(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    source = postgres_account
    pipeline = make(source, target_account, tmp_path)
    pipeline.must("load", "FILE")
    [(name,)] = source.query("SELECT pubname FROM pg_publication")
    found = json.loads(pipeline.must("check", "FILE", "--json"))["checks"]
    assert [item["status"] for item in found if item["id"] == "source.publication"] == ["pass"]
    source.query(f"ALTER PUBLICATION {name} DROP TABLE t")
    found = json.loads(pipeline.must("check", "FILE", "--json"))["checks"]
    [warned] = [item for item in found if item["id"] == "source.publication"]
    assert warned["status"] == "warn"
    assert f"{source.database}.t" in warned["message"]
    source.query(f"ALTER PUBLICATION {name} SET (publish = 'insert')")
    [failed] = check(pipeline)
    assert failed["id"] == "source.publication"
    source.query(f"DROP PUBLICATION {name}")
    [failed] = check(pipeline)
    assert (failed["id"], failed["subject"]) == ("source.publication", name)
    assert "replicator drop" in failed["fix"]
    pipeline.must("drop", "FILE")
    assert check(pipeline) == []


@pytest.fixture
def yen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A locale whose money has no decimals, for servers that start later."""
    compiler = shutil.which("localedef")
    if compiler is None:
        pytest.skip("this machine cannot make a locale")
    made = subprocess.run(
        [compiler, "-i", "ja_JP", "-f", "UTF-8", tmp_path / "ja_JP.UTF-8"], check=False, capture_output=True
    )
    if not (tmp_path / "ja_JP.UTF-8").exists():
        pytest.skip(f"no sources of locales: {made.stderr.decode()}")
    monkeypatch.setenv("LOCPATH", str(tmp_path))
    return "ja_JP.UTF-8"


@pytest.mark.parametrize(
    "newest", [pytest.param(False, marks=pytest.mark.full), True], ids=["debian", "newest"]
)
def test_money_without_cents_is_refused(
    target_account: Account, tmp_path: Path, yen: str, newest: bool
) -> None:
    """Whoever sets it; made numeric by what is said, each value is what it was."""
    with start_postgres(newest=newest) as server, make_postgres_account(server) as account:
        pipeline = make(account, target_account, tmp_path)
        account.query("ALTER TABLE t ADD price money, ADD prices money[]")
        assert check(pipeline) == []
        for who in (f"DATABASE {account.database}", "ROLE root"):
            server.execute(f"ALTER {who} SET lc_monetary = '{yen}'")
            failed = check(pipeline)
            assert [item["id"] for item in failed] == ["tables.money", "tables.money"]
            assert pipeline.run("load", "FILE").returncode == 4
            server.execute(f"ALTER {who} RESET lc_monetary")
            assert check(pipeline) == []
        server.execute(f"ALTER DATABASE {account.database} SET lc_monetary = '{yen}'")
        account.query("INSERT INTO t VALUES (1, '￥1,234', ARRAY['7'::money])")
        for item in failed:
            account.query(item["fix"])
        assert check(pipeline) == []
        pipeline.must("load", "FILE")
        assert target_account.query("SELECT price + 0 = 1234, prices FROM t") == [(1, "{7}")]


def test_a_type_that_cannot_be_shown(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """It is told where it is met: while no row has a value, nothing is amiss."""
    source = postgres_account
    pipeline = make(source, target_account, tmp_path)
    source.server.execute(
        ["CREATE EXTENSION pg_trgm", "CREATE CAST (text AS gtrgm) WITHOUT FUNCTION"], database=source.database
    )
    source.query("ALTER TABLE t ADD g public.gtrgm, ADD h public.gtrgm")
    assert check(pipeline) == []
    source.query("INSERT INTO t VALUES (1)")
    pipeline.must("load", "FILE")
    source.query("INSERT INTO t VALUES (2, 'abc'::text::public.gtrgm)")
    ended = pipeline.run("run", "FILE", "--until-current")
    assert ended.returncode == 4, ended.stderr
    assert "gtrgm" in ended.stderr
    [failed] = check(pipeline)
    assert (failed["id"], failed["subject"]) == ("tables.text_form", f"{source.database}.t g")
    pipeline.must("drop", "FILE")
    target_account.query("DROP TABLE t")
    ended = pipeline.run("load", "FILE")
    assert ended.returncode == 4, ended.stderr
    assert "tables.text_form" in ended.stderr


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ("", "{t}:g: a value that has no text"),
        ("DELETE FROM t WHERE id = 2", "it may be a value without a text in {t}:g, {t}:h: "),
    ],
    ids=["there", "gone when it is read"],
)
def test_a_value_that_cannot_be_shown_comes_while_a_run_mirrors(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path, after: str, said: str
) -> None:
    """The source names its type at best; the column is told from what the table holds, or may have held."""
    source = postgres_account
    pipeline = make(source, target_account, tmp_path)
    source.server.execute(
        [
            "CREATE EXTENSION pg_trgm",
            "CREATE CAST (text AS gtrgm) WITHOUT FUNCTION",
            "CREATE EXTENSION hstore",
        ],
        database=source.database,
    )
    source.query("ALTER TABLE t ADD g public.gtrgm, ADD h public.gtrgm, ADD s public.hstore DEFAULT 'a=>1'")
    source.query("INSERT INTO t VALUES (1)")
    process = pipeline.start("run", "FILE")
    follow(process, "state=streaming")
    source.query(f"INSERT INTO t VALUES (2, 'abc'::text::public.gtrgm); {after}")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 4, output
    assert said.format(t=f"{source.database}.t") in output


# --- logins -----------------------------------------------------------------------------------------------------------


def test_a_password_that_is_wrong(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    pipeline = make(postgres_account, target_account, tmp_path)
    pipeline.env["SOURCE_PASSWORD"] = "wrong"
    [failed] = check(pipeline)
    assert failed["id"] == "source.login"
    assert "password authentication failed" in failed["message"]
    assert pipeline.run("run", "FILE").returncode == 4


LOGINS = {
    "no database": ("source.database", "ALTER DATABASE {name} RENAME TO {name}_gone", "does not exist"),
    "no connect": (
        "source.database",
        "REVOKE CONNECT ON DATABASE {name} FROM PUBLIC, {name}",
        "permission denied",
    ),
    "no login": ("source.login", "ALTER ROLE {name} NOLOGIN", "not permitted to log in"),
    "none left to it": ("source.login", "ALTER ROLE {name} CONNECTION LIMIT 0", "too many connections"),
    "none left to the database": (
        "source.login",
        "ALTER DATABASE {name} CONNECTION LIMIT 0",
        "too many connections",
    ),
}


@pytest.mark.parametrize("fault", LOGINS)
def test_a_login_that_is_refused_is_mended_by_what_is_said(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path, fault: str
) -> None:
    source = postgres_account
    pipeline = make(source, target_account, tmp_path)
    expected, deed, said = LOGINS[fault]
    source.server.execute(deed.format(name=source.database))
    try:
        [failed] = check(pipeline)
        assert failed["id"] == expected
        assert said in failed["message"]
        if "too many" not in said:  # which a run waits for
            assert pipeline.run("run", "FILE").returncode == 4
        source.server.execute(failed["fix"].partition("--")[0])
        assert "source.login" not in [item["id"] for item in check(pipeline)]
        assert "source.database" not in [item["id"] for item in check(pipeline)]
    finally:
        if fault == "no database":
            source.server.execute(f"DROP DATABASE IF EXISTS {source.database}")
            source.server.execute(f"ALTER DATABASE {source.database}_gone RENAME TO {source.database}")


SAID = (
    b"password authentication failed",
    b"is not permitted to log in",
    b"does not exist",
    b"permission denied for database",
    b"too many connections for role",
)
"""Words of refused logins; other languages have other ones, and the same codes."""


@pytest.mark.parametrize("fault", ["wrong password", "no database", "no connect", "no login"])
def test_a_refused_login_is_known_in_any_language(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path, fault: str
) -> None:
    """What the server says is translated on its way, letter by letter; what `check` says of it mends it."""
    source = postgres_account
    pipeline = make(source, target_account, tmp_path)
    expected, deed, _ = LOGINS.get(fault, ("source.login", "", ""))
    if fault == "wrong password":
        pipeline.env["SOURCE_PASSWORD"] = "wrong"
    elif fault == "no database":
        deed = ""
        pipeline.edit("source", database=f"{source.database}_gone")
    else:
        source.server.execute(deed.format(name=source.database))
    with Line(source.server.port, words={said: said[::-1] for said in SAID}) as line:
        pipeline.edit("source", port=line.port, tls={"mode": "disabled"})
        assert pipeline.run("run", "FILE", seconds=30).returncode == 4
        [failed] = check(pipeline)
        assert failed["id"] == expected
        assert "SQLSTATE" in failed["message"]
        assert not any(said.decode() in failed["message"] for said in SAID)
        if deed:
            source.server.execute(failed["fix"])
            assert check(pipeline) == []


def test_a_login_that_passes_is_waited_for_in_any_language(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    source = postgres_account
    pipeline = make(source, target_account, tmp_path)
    source.server.execute(f"ALTER ROLE {source.user} CONNECTION LIMIT 0")
    with Line(source.server.port, words={said: said[::-1] for said in SAID}) as line:
        pipeline.edit("source", port=line.port, tls={"mode": "disabled"})
        process = pipeline.start("run", "FILE")
        follow(process, "too many connections for role"[::-1])
        source.server.execute(f"ALTER ROLE {source.user} CONNECTION LIMIT -1")
        follow(process, "state=streaming")
        assert end(process)[0] == 0


def paste(server: PostgresServer, command: str, folder: Path) -> None:
    """Run a line in a shell of the server's machine, with its own psql."""
    (folder / "psql").write_text(f'#!/bin/sh\nexec {shlex.join(server.installation.command("psql"))} "$@"\n')
    (folder / "psql").chmod(0o755)
    place = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGDATABASE": "postgres"}
    login = {"PGUSER": server.user, "PGPASSWORD": server.password, "PATH": f"{folder}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", command], env=os.environ | place | login, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("line", "tls"),
    [("", False), ("host all all all reject\n", True)],
    ids=["no line", "a line that rejects"],
)
def test_an_account_that_pg_hba_does_not_let_in(
    target_account: Account, tmp_path: Path, line: str, tls: bool
) -> None:
    certificates = make_certificates(tmp_path) if tls else None
    with start_postgres(tls=certificates) as server, make_postgres_account(server) as account:
        pipeline = make(account, target_account, tmp_path)
        (server.datadir / "pg_hba.conf").write_text(f"host all root all scram-sha-256\n{line}")
        server.restart()
        [failed] = check(pipeline)
        assert failed["id"] == "source.login"
        assert "pg_hba.conf" in failed["message"]
        assert pipeline.run("run", "FILE").returncode == 4
        paste(server, failed["fix"], tmp_path)
        assert check(pipeline) == []
        pipeline.must("load", "FILE")  # the line is good for replication too


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Its certificate is for "localhost" alone; who comes without TLS is sent away."""
    with start_postgres(tls=make_certificates(tmp_path_factory.mktemp("tls"), ["localhost"])) as server:
        (server.datadir / "pg_hba.conf").write_text(
            "host all root all scram-sha-256\nhostssl all all all scram-sha-256\n"
        )
        server.restart()
        yield server


@pytest.fixture
def encrypted_account(encrypted: PostgresServer) -> Iterator[PostgresAccount]:
    with make_postgres_account(encrypted) as account:
        yield account


def read_tls(pipeline: PipelineFile) -> str:
    found = json.loads(pipeline.must("check", "FILE", "--json"))["checks"]
    [message] = [item["message"] for item in found if item["id"] == "source.tls"]
    return str(message)


def test_each_tls_mode_is_what_it_says(
    encrypted_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """In check, load and stream alike: every session of these ends would be sent away without TLS."""
    source = encrypted_account
    pipeline = make(source, target_account, tmp_path)
    own = str(source.server.tls.ca) if source.server.tls else ""
    other = str(make_certificates(tmp_path, ["localhost"]).ca)
    for mode, ca, host in (
        ("preferred", None, "127.0.0.1"),
        ("required", None, "127.0.0.1"),
        ("verify_ca", own, "127.0.0.1"),
        ("verify_identity", own, "localhost"),
    ):
        pipeline.edit("source", tls={"mode": mode} | ({"ca": ca} if ca else {}), host=host)
        message = read_tls(pipeline)
        assert message.startswith("TLSv1.3 ")
        assert ("certificate verified" in message) == mode.startswith("verify")
        pipeline.must("run", "FILE", "--until-current")
    for mode, ca, host in (
        ("verify_ca", other, "localhost"),
        ("verify_identity", other, "localhost"),
        ("verify_identity", own, "127.0.0.1"),
        ("verify_identity", None, "localhost"),  # the system's authorities do not know it
    ):
        pipeline.edit("source", tls={"mode": mode} | ({"ca": ca} if ca else {}), host=host)
        [failed] = check(pipeline)
        assert failed["id"] == "source.tls", mode
        assert "certificate" in failed["message"]
        assert "source.tls.ca" in failed["fix"]
        assert pipeline.run("run", "FILE").returncode == 4
    pipeline.edit("source", tls={"mode": "disabled"}, host="127.0.0.1")
    [failed] = check(pipeline)
    assert failed["id"] == "source.login"
    assert "no encryption" in failed["message"]
    assert "tls: {mode: required}" in failed["fix"]


def test_a_server_without_tls_takes_preferred_and_fails_required(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    pipeline = make(postgres_account, target_account, tmp_path)
    pipeline.edit("source", tls={"mode": "preferred"})
    assert read_tls(pipeline).startswith("plain text")
    pipeline.must("load", "FILE")
    pipeline.edit("source", tls={"mode": "required"})
    [failed] = check(pipeline)
    assert failed["id"] == "source.tls"
    assert "ssl = on" in failed["fix"]
    assert pipeline.run("run", "FILE").returncode == 4


@pytest.mark.parametrize("mode", ["preferred", "disabled"])
def test_a_port_where_another_server_answers_is_not_waited_for(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path, mode: str
) -> None:
    """A MySQL server greets; what it says is no answer to what we asked."""
    pipeline = make(postgres_account, target_account, tmp_path)
    pipeline.edit("source", port=target_account.server.port, tls={"mode": mode})
    [failed] = check(pipeline)
    assert failed["id"] == "source.login"
    assert "source.port" in failed["fix"]
    assert pipeline.run("run", "FILE").returncode == 4
