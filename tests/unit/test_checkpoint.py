"""Heads and table updates as text, and a schema's way through JSON."""

from __future__ import annotations

import dataclasses

import pytest

from replicator.checkpoint import CHECKED, Lease, build_chunk_head, build_head
from replicator.model import (
    Checkpoint,
    Column,
    ForeignKey,
    GeneratedColumn,
    Index,
    IndexPart,
    Kind,
    TableName,
    TableSchema,
    Torn,
    UniqueKey,
)
from replicator.tablestate import (
    Counts,
    State,
    StatusLine,
    build_status_update,
    build_table_update,
    schema_from_json,
    schema_to_json,
)
from replicator.testing import MemoryPosition

NAME = TableName("app", "it's")
CHECK = b"DO IF(ROW_COUNT()=1,0,(SELECT 1 UNION ALL SELECT 2))"


def build_lease(worker: int = 0) -> Lease:
    return Lease("shop", worker, epoch=7, seq=41, identity="memory", short_id="00c0ffee")


def test_a_batch_begins_in_its_one_form() -> None:
    head = build_head(
        build_lease(),
        Checkpoint(MemoryPosition(5), MemoryPosition(3), Torn(2, frozenset({TableName("app", "items")}))),
    )
    assert head.sql == (
        b"ROLLBACK;"
        b"UPDATE _replicator_checkpoint SET seq=seq+1,position='memory:5',read_from='memory:3',skip_changes=2,"
        b'chunk=\'[["app", "items"]]\','
        b"updated_at=NOW(6) WHERE pipeline='shop' AND worker=0 AND epoch=7 AND seq=41;" + CHECK
    )
    assert head.results == 3
    assert head.sql.split(b";")[CHECKED] == CHECK


def test_positions_of_tables_move_with_a_check_each() -> None:
    checkpoint = Checkpoint(MemoryPosition(5), MemoryPosition(3), tables=((NAME, MemoryPosition(4)),))
    head = build_head(build_lease(), checkpoint, [b"UPDATE x"])
    statements = head.sql.split(b";")
    assert len(statements) == head.results == 7
    assert statements[3] == (
        b"UPDATE _replicator_tables SET position='memory:4' WHERE pipeline='shop' AND source_schema='app' "
        b"AND source_table='it''s'"
    )
    assert statements[4:] == [CHECK, b"UPDATE x", CHECK]


def test_a_keepalive_without_a_position_leaves_the_stored_one() -> None:
    assert b"position" not in build_head(build_lease(), None).sql


def test_a_chunk_follows_the_worker_row() -> None:
    head = build_chunk_head(build_lease(worker=2), NAME, '{"n":1}')
    assert b"source_table='app.it''s',chunk='{\"n\":1}'," in head.sql
    assert b"worker=2 AND epoch=7 AND seq=41" in head.sql


def test_a_table_update_adds_counts_and_sets_values() -> None:
    sql = build_table_update(
        "shop", NAME, counts=Counts(1, 0, 3), rows_loaded=5, state=State.STREAMING, position=None
    )
    assert sql.startswith(
        b"UPDATE _replicator_tables SET rows_loaded=rows_loaded+5,inserted=inserted+1,deleted=deleted+3,"
        b"state='streaming',position=NULL,updated_at=NOW(6) WHERE pipeline='shop'"
    )


def test_a_table_update_knows_its_columns() -> None:
    with pytest.raises(TypeError, match="nonsense"):
        build_table_update("shop", NAME, nonsense=1)


def test_a_status_update_adds_conflicts_and_may_know_no_lag() -> None:
    sql = build_status_update("shop", StatusLine("loading", None, False), {"insert_exists": 2})
    assert b"lag_seconds=NULL" in sql
    assert b"insert_exists=insert_exists+2" in sql
    assert b"consistent=0" in sql


def test_a_schema_comes_back_from_json_whole() -> None:
    schema = TableSchema(
        NAME,
        "target",
        (
            Column("id", Kind.INTEGER, "int", nullable=False, auto_increment=True),
            Column(
                "e", Kind.ENUM, "enum", charset="binary", labels=(b"\xff\x00", b"", "ü".encode()), srid=4326
            ),
        ),
        key=(0,),
        unique_keys=(UniqueKey("PRIMARY", (0,)), UniqueKey("u", (0, 1), exact=False)),
        generated=(GeneratedColumn("g", "int", "id + 1", stored=True),),
        indexes=(Index("i", "unique", (IndexPart("id", 3, True), IndexPart(None, expression="(1)"))),),
        foreign_keys=(ForeignKey("f", ("id",), TableName("a", "b"), ("x",), on_delete="CASCADE"),),
        comment="ключ",
    )
    back = schema_from_json(schema_to_json(schema))
    assert dataclasses.asdict(back) == dataclasses.asdict(schema)
    assert isinstance(back.source, TableName)
    assert isinstance(back.foreign_keys[0].parent, TableName)
    assert isinstance(back.columns[0].kind, Kind)


def test_every_field_of_a_schema_survives_json() -> None:
    """A field added to the model later must not be lost: each is stored under its own name."""
    text = schema_to_json(TableSchema(NAME, "t", (Column("id", Kind.INTEGER, "int"),), (0,))).decode()
    for kind in (TableSchema, Column):
        for field in dataclasses.fields(kind):
            assert f'"{field.name}"' in text
