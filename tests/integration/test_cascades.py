"""Foreign keys whose work the source does not log: the target's own keys do it, or somebody is told (SEMANTICS §5.3, I7)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from replicator.servers import Server
from tests.accounts import Account
from tests.compare import assert_equal
from tests.nodes import SCHEMA, Nodes
from tests.processes import PipelineFile, write_pipeline

CHILD = (
    "CREATE TABLE child (id INT PRIMARY KEY, parent_id INT,"
    " CONSTRAINT child_parent FOREIGN KEY (parent_id) REFERENCES parent (id) ON DELETE CASCADE ON UPDATE CASCADE)"
)
TABLES = (
    f"CREATE TABLE parent (id INT PRIMARY KEY, v VARCHAR(10)); {CHILD}; CREATE TABLE other (id INT PRIMARY KEY);"
    "INSERT INTO parent VALUES (1, 'a'), (2, 'b'), (3, 'c'); INSERT INTO child VALUES (1, 1), (2, 2), (3, 3), (4, 3)"
)


@pytest.fixture(params=["mysql", "mysql_unlogged", "mariadb"])
def source_server(request: pytest.FixtureRequest) -> Server:
    """MySQL twice: whether its log tells what cascades do is a setting."""
    server: Server = request.getfixturevalue(f"{request.param}_source")
    return server


def mirror(pipeline: PipelineFile, source: Account, target: Account) -> None:
    """What was written has arrived, and nothing else."""
    pipeline.must("run", "FILE", "--until-current")
    assert_equal(source.server, source.database, target.server, target.database)


def logs_cascades(account: Account) -> bool:
    server = account.server
    return server.kind == "mysql" and not server.settings.get("innodb_native_foreign_keys")


@pytest.fixture
def pipeline(source_account: Account, target_account: Account, tmp_path: Path) -> PipelineFile:
    write(source_account, TABLES)
    return write_pipeline(tmp_path, source_account, target_account)


def write(account: Account, sql: str) -> None:
    account.server.execute(sql, database=account.database)


def states(pipeline: PipelineFile) -> dict[str, tuple[str, str | None]]:
    return {table["target"]: (table["state"], table["error"]) for table in pipeline.status()["tables"]}


def test_a_table_is_paused_with_the_parent_whose_cascades_it_would_miss(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    pipeline.must("load", "FILE")
    write(source_account, "ALTER TABLE parent ADD COLUMN w INT; DELETE FROM parent WHERE id = 3")
    write(source_account, "INSERT INTO other VALUES (1)")
    pipeline.must("run", "FILE", "--until-current", exit_code=6)
    found = states(pipeline)
    assert found["parent"][0] == "paused"
    assert found["other"] == ("streaming", None)
    children = [row[0] for row in target_account.query("SELECT id FROM child ORDER BY id")]
    if logs_cascades(source_account):  # logs what its cascades do
        assert found["child"] == ("streaming", None)
        assert children == [1, 2]
    else:
        assert found["child"][0] == "paused"
        assert "parent" in (found["child"][1] or "")


def test_a_paused_table_does_not_have_its_family_loaded_again(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    pipeline.must("load", "FILE")
    write(source_account, "ALTER TABLE child ADD COLUMN w INT; UPDATE parent SET v = 'z' WHERE id = 1")
    pipeline.must("run", "FILE", "--until-current", exit_code=6)
    write(target_account, "INSERT INTO parent VALUES (77, 'app')")  # a load would take it away or stop at it
    write(source_account, "UPDATE parent SET v = 'y' WHERE id = 2")
    pipeline.must("run", "FILE", "--until-current", exit_code=6)
    assert states(pipeline)["parent"] == ("streaming", None)
    assert target_account.query("SELECT * FROM parent WHERE id IN (1, 2, 77) ORDER BY id") == [
        (1, "z"), (2, "y"), (77, "app")
    ]  # fmt: skip


def test_a_target_of_other_making_without_the_key_is_refused_where_it_must_cascade(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    write(
        target_account,
        "CREATE TABLE parent (id INT PRIMARY KEY, v VARCHAR(10)); CREATE TABLE child (id INT PRIMARY KEY, parent_id INT)",
    )
    if logs_cascades(source_account):
        pipeline.must("load", "FILE")
        write(source_account, "DELETE FROM parent WHERE id = 3")
        mirror(pipeline, source_account, target_account)
        return
    done = pipeline.run("load", "FILE")
    assert done.returncode == 5, done.stdout + done.stderr
    assert "child_parent" in done.stderr
    assert target_account.query("SELECT * FROM child") == []
    write(target_account, f"DROP TABLE child; {CHILD}")
    pipeline.must("load", "FILE")
    write(source_account, "DELETE FROM parent WHERE id = 3")
    mirror(pipeline, source_account, target_account)


def test_a_target_key_with_other_rules_is_refused_where_it_must_cascade(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    other = CHILD.replace("ON DELETE CASCADE", "ON DELETE RESTRICT")
    write(target_account, f"CREATE TABLE parent (id INT PRIMARY KEY, v VARCHAR(10)); {other}")
    if not logs_cascades(source_account):
        done = pipeline.run("load", "FILE")
        assert done.returncode == 5, done.stdout + done.stderr
        assert "ON DELETE NO ACTION ON UPDATE CASCADE, the source's is ON DELETE CASCADE" in done.stderr
        assert target_account.query("SELECT * FROM parent") == []
        fix = re.search(r"at the target: (ALTER.*CASCADE)", " ".join(done.stderr.split()))
        assert fix, done.stderr
        write(target_account, fix[1])
    pipeline.must("load", "FILE")
    write(source_account, "DELETE FROM parent WHERE id = 3; UPDATE parent SET id = 20 WHERE id = 2")
    mirror(pipeline, source_account, target_account)


def test_a_target_key_that_cascades_where_the_source_has_none_is_refused(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    """It would delete rows that the source keeps, without a word."""
    write(source_account, "ALTER TABLE child DROP FOREIGN KEY child_parent")
    write(target_account, f"CREATE TABLE parent (id INT PRIMARY KEY, v VARCHAR(10)); {CHILD}")
    done = pipeline.run("load", "FILE")
    assert done.returncode == 5, done.stdout + done.stderr
    assert "child_parent to parent is not at the source, and its cascades" in " ".join(done.stderr.split())


def read_fixes(pipeline: PipelineFile) -> list[str]:
    """The fixes of `check` for target tables, each as an administrator pastes it."""
    answer = json.loads(pipeline.must("check", "FILE", "--json", exit_code=3))
    return [
        item["fix"] for item in answer["checks"] if (item["id"], item["status"]) == ("target.table", "fail")
    ]


@pytest.mark.parametrize(
    ("meddle", "said"),
    [
        (
            "ALTER TABLE child DROP FOREIGN KEY child_parent",
            "child: it lacks the foreign key child_parent to parent",
        ),
        (
            "ALTER TABLE child DROP FOREIGN KEY child_parent; ALTER TABLE child ADD CONSTRAINT child_parent"
            " FOREIGN KEY (parent_id) REFERENCES parent (id) ON DELETE SET NULL ON UPDATE CASCADE",
            "is ON DELETE SET NULL ON UPDATE CASCADE, the source's is ON DELETE CASCADE ON UPDATE CASCADE",
        ),
        (
            "ALTER TABLE parent ADD CONSTRAINT theirs FOREIGN KEY (id) REFERENCES other (id) ON DELETE CASCADE",
            "parent: its foreign key theirs to other is not at the source, and its cascades",
        ),
    ],
    ids=["dropped", "changed", "added"],
)
def test_a_key_that_somebody_meddles_with_after_the_load_ends_the_next_start(
    pipeline: PipelineFile, source_account: Account, target_account: Account, meddle: str, said: str
) -> None:
    """Before any change is read: what the target's key does not do, nobody would ever do."""
    name = source_account.database
    write(source_account, "INSERT INTO other VALUES (1), (2), (3)")
    pipeline.must("load", "FILE")
    write(target_account, meddle)
    write(source_account, "DELETE FROM parent WHERE id = 3")
    if logs_cascades(source_account):
        pipeline.must("run", "FILE", "--until-current")
    else:
        position = pipeline.status()["position"]
        done = pipeline.run("run", "FILE", "--until-current")
        assert done.returncode == 5, done.stdout + done.stderr
        assert said in " ".join(done.stderr.split())
        assert pipeline.status()["position"] == position
        fixes = read_fixes(pipeline)
        assert pipeline.run("plan", "FILE").returncode == 5
        assert len(fixes) == 1
        write(target_account, fixes[0])
        pipeline.must("check", "FILE")
        pipeline.must("run", "FILE", "--until-current")
    assert_equal(source_account.server, name, target_account.server, target_account.database)


def test_a_child_whose_cascading_parent_is_not_mirrored_is_refused_where_nobody_logs_it(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    pipeline.edit("tables", **{f"{source_account.database}.parent": {"skip": True}})
    if logs_cascades(source_account):
        pipeline.must("load", "FILE")
        write(source_account, "DELETE FROM parent WHERE id = 3")
        pipeline.must("run", "FILE", "--until-current")
        assert target_account.query("SELECT id FROM child ORDER BY id") == [(1,), (2,)]
        return
    assert "tables.cascades" in pipeline.must("check", "FILE", exit_code=3)
    done = pipeline.run("load", "FILE")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "child_parent" in done.stderr


def test_a_child_that_comes_while_its_parent_is_paused_waits_with_it(
    pipeline: PipelineFile, source_account: Account
) -> None:
    name = source_account.database
    pipeline.edit("tables", **{f"{name}.*": None, f"{name}.parent": {}, f"{name}.other": {}})
    pipeline.must("load", "FILE")
    write(source_account, "ALTER TABLE parent ADD COLUMN w INT")
    pipeline.must("run", "FILE", "--until-current", exit_code=6)
    pipeline.edit("tables", **{f"{name}.child": {}})
    pipeline.must("run", "FILE", "--until-current", exit_code=6)
    logged = logs_cascades(source_account)
    assert states(pipeline)["child"][0] == ("streaming" if logged else "paused")
    assert states(pipeline)["other"][0] == "streaming"


def test_what_cascades_do_arrives_whoever_logs_it(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    """Chains, NULLs, keys of several columns and changes of one transaction that meet what a cascade freed."""
    write(
        source_account,
        "CREATE TABLE grandchild (id INT PRIMARY KEY, child_id INT, FOREIGN KEY (child_id) REFERENCES child (id)"
        " ON DELETE SET NULL ON UPDATE CASCADE); CREATE TABLE region (a INT, b INT, v INT, PRIMARY KEY (a, b));"
        "CREATE TABLE city (id INT PRIMARY KEY, a INT, b INT, seen TIMESTAMP(6) NULL ON UPDATE CURRENT_TIMESTAMP(6),"
        " FOREIGN KEY (a, b) REFERENCES region (a, b) ON DELETE SET NULL ON UPDATE CASCADE);"
        "INSERT INTO grandchild VALUES (1, 1), (2, 2), (3, 3), (4, 4);"
        "INSERT INTO region VALUES (1, 1, 0), (1, 2, 0), (2, 1, 0);"
        "INSERT INTO city (id, a, b) VALUES (1, 1, 1), (2, 1, 2), (3, 2, 1)",
    )
    pipeline.must("load", "FILE")
    write(
        source_account,
        "BEGIN; UPDATE parent SET id = 20 WHERE id = 2; UPDATE child SET id = 30 WHERE id = 3;"
        "DELETE FROM parent WHERE id = 1; INSERT INTO parent VALUES (1, 'again'); INSERT INTO child VALUES (1, 1);"
        "UPDATE region SET b = 9 WHERE a = 1 AND b = 1; DELETE FROM region WHERE a = 2;"
        "UPDATE city SET id = 10 WHERE id = 1; COMMIT; DELETE FROM parent WHERE id = 3",
    )
    mirror(pipeline, source_account, target_account)
    assert target_account.query("SELECT id, child_id FROM grandchild ORDER BY id") == [
        (1, None), (2, 2), (3, None), (4, None)
    ]  # fmt: skip
    assert target_account.query("SELECT id, a, b FROM city ORDER BY id") == [
        (2, 1, 2), (3, None, None), (10, 1, 9)
    ]  # fmt: skip


CIRCLES = (
    "CREATE TABLE tree (id INT PRIMARY KEY, parent INT NULL, FOREIGN KEY (parent) REFERENCES tree (id) ON DELETE CASCADE);"
    "CREATE TABLE leaf (id INT PRIMARY KEY, tree INT, FOREIGN KEY (tree) REFERENCES tree (id) ON DELETE CASCADE);"
    "CREATE TABLE dept (id INT PRIMARY KEY, head INT NULL, seen TIMESTAMP(6) NULL ON UPDATE CURRENT_TIMESTAMP(6));"
    "CREATE TABLE emp (id INT PRIMARY KEY, dept INT, made_by INT NULL, boss INT NULL,"
    " FOREIGN KEY (dept) REFERENCES dept (id) ON DELETE CASCADE,"
    " FOREIGN KEY (made_by) REFERENCES emp (id) ON DELETE SET NULL,"
    " FOREIGN KEY (boss) REFERENCES emp (id) ON DELETE SET NULL);"
    "ALTER TABLE dept ADD FOREIGN KEY (head) REFERENCES emp (id) ON DELETE SET NULL;"
    "CREATE TABLE page (site INT, id INT, parent INT NULL, PRIMARY KEY (site, id),"
    " FOREIGN KEY (site, parent) REFERENCES page (site, id) ON DELETE CASCADE);"
    "CREATE TABLE folder (id INT PRIMARY KEY, file INT); CREATE TABLE file (id INT PRIMARY KEY, folder INT,"
    " FOREIGN KEY (folder) REFERENCES folder (id) ON DELETE CASCADE);"
    "ALTER TABLE folder ADD FOREIGN KEY (file) REFERENCES file (id) ON DELETE CASCADE;"
    "CREATE TABLE deep (id INT PRIMARY KEY, parent INT NULL, FOREIGN KEY (parent) REFERENCES deep (id) ON DELETE CASCADE);"
    f"INSERT INTO tree VALUES (0, NULL), {', '.join(f'({n}, {(n - 1) // 2})' for n in range(1, 300))}, (999, NULL);"
    "INSERT INTO leaf SELECT id, id FROM tree;"
    "INSERT INTO dept (id) VALUES (1), (2), (3); INSERT INTO emp VALUES (1, 1, NULL, NULL), (2, 1, 1, 1), (3, 2, 1, 2),"
    " (4, 2, 2, 1), (5, 3, 4, 3); UPDATE dept SET head = CASE id WHEN 1 THEN 3 WHEN 2 THEN 1 ELSE 2 END;"
    "UPDATE dept SET seen = '2020-02-02';"
    "INSERT INTO page VALUES (1, 0, NULL), (1, 1, 0), (1, 2, 1), (1, 3, NULL), (2, 0, NULL), (2, 1, 0);"
    "INSERT INTO folder VALUES (1, NULL); INSERT INTO file VALUES (1, 1); INSERT INTO folder VALUES (2, 1), (3, NULL);"
    "INSERT INTO file VALUES (2, 2); INSERT INTO folder VALUES (4, 2);"
    f"INSERT INTO deep VALUES (0, NULL), {', '.join(f'({n}, {n - 1})' for n in range(1, 60))}"
)


@pytest.mark.parametrize("source_server", ["mysql_unlogged", "mariadb"], indirect=True)
def test_cascades_in_circles_arrive_where_the_target_does_not_follow_them(
    source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    """MySQL from 9.6 on refuses some, and of others does a part without a word: nothing may be left to it there."""
    write(source_account, CIRCLES)
    pipeline = write_pipeline(tmp_path, source_account, target_account)
    pipeline.must("load", "FILE")
    write(
        source_account,
        "BEGIN; UPDATE tree SET parent = 999 WHERE id = 5; DELETE FROM tree WHERE id = 2; DELETE FROM tree WHERE id = 0;"
        "INSERT INTO tree VALUES (0, 999), (1, 0); INSERT INTO leaf VALUES (1, 1); COMMIT;"
        "DELETE FROM dept WHERE id = 1; DELETE FROM emp WHERE id = 4; DELETE FROM page WHERE site = 1 AND id = 0;"
        "DELETE FROM folder WHERE id = 1; TRUNCATE TABLE deep",
    )
    mirror(pipeline, source_account, target_account)
    assert target_account.query("SELECT delete_missing FROM _replicator_status") == [(0,)]
    assert target_account.query("SELECT id FROM page ORDER BY site, id") == [(3,), (0,), (1,)]
    assert target_account.query("SELECT (SELECT COUNT(*) FROM folder), (SELECT COUNT(*) FROM file)") == [
        (1, 0)
    ]


@pytest.mark.parametrize("source_server", ["mysql_unlogged", "mariadb"], indirect=True)
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.full)])
def test_random_writes_to_a_table_that_refers_to_itself_arrive(
    seed: int, source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    """Subtrees that move, knots, names that swap and cascades over whole trees, in batches of many transactions."""
    write(source_account, SCHEMA)
    pipeline = write_pipeline(tmp_path, source_account, target_account)
    pipeline.must("load", "FILE")
    for part in range(4):
        Nodes(source_account.server, source_account.database, 100 * seed + part).write(250)
        mirror(pipeline, source_account, target_account)
