"""Random documents with decimals at many places, loaded and mirrored: the target shows what the source shows (I6, I10)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.accounts import Account
from tests.compare import assert_equal
from tests.processes import write_pipeline
from tests.targets import set_global

TABLE = "CREATE TABLE docs (id INT PRIMARY KEY, doc JSON, note VARCHAR(20), more JSON NOT NULL)"
KEYS = ["a", "", "price", "a.b", 'say \\\\"x\\\\"', "it''s", "\\\\\\\\", "é漢😀", "$[0]", " "]
ROWS = 700  # above the smallest LOAD of a batch


def decimal(chance: random.Random) -> str:
    scale = chance.choice([0, 1, 2, 2, 2, 10, 30])
    digits = "".join(chance.choices("0123456789", k=chance.randint(1, 35)))
    fraction = "".join(chance.choices("0005", k=scale))
    sign = chance.choice(["", "-"])
    return f"CAST('{sign}{digits}.{fraction}' AS DECIMAL({len(digits) + scale},{scale}))"


def document(chance: random.Random, depth: int = 0) -> str:
    """An SQL expression of type JSON, or of one that JSON functions take."""
    kind = chance.randrange(12 if depth < 4 else 8)
    if kind < 4:
        return decimal(chance)
    if kind < 8:
        return chance.choice(
            ["12.5e0", "NULL", "7", "'1.50'", "', 1.50]'", "1e300", "-0e0", "DATE'2024-01-02'", "1/3e0"]
        )
    parts = [document(chance, depth + 1) for _ in range(chance.randrange(4))]
    if kind < 10:
        return f"JSON_ARRAY({', '.join(parts)})"
    keys = chance.sample(KEYS, len(parts))
    members = ", ".join(f"'{key}', {part}" for key, part in zip(keys, parts, strict=True))
    return f"JSON_OBJECT({members})"


def row(chance: random.Random, number: int) -> str:
    doc = chance.choice(
        ["NULL", "JSON_ARRAY(1, 2)", f"JSON_ARRAY({document(chance)})", f"CAST({decimal(chance)} AS JSON)"]
    )
    return (
        f"({number}, {doc}, 'n', JSON_OBJECT('k', {document(chance) if chance.random() < 0.3 else number}))"
    )


def insert(chance: random.Random, first: int) -> str:
    return f"INSERT INTO docs VALUES {', '.join(row(chance, first + k) for k in range(ROWS))}"


@pytest.mark.parametrize("local_infile", ["ON", "OFF"])
def test_documents_with_decimals_are_mirrored(
    mysql_source_account: Account, target_account: Account, tmp_path: Path, local_infile: str
) -> None:
    source, target, chance = mysql_source_account, target_account, random.Random(local_infile)
    source.server.execute([TABLE, insert(chance, 0), insert(chance, ROWS)], database=source.database)
    with set_global(target.server, "local_infile", local_infile):
        pipeline = write_pipeline(tmp_path, source, target)
        pipeline.must("load", "FILE")
        assert_equal(source.server, source.database, target.server, target.database)
        changes = [
            insert(chance, 2 * ROWS),
            "UPDATE docs SET more = JSON_SET(more, '$.again', 2.50), note = 'x' WHERE id % 3 = 0",
            "UPDATE docs SET id = id + 100000 WHERE id % 7 = 0",
            "UPDATE docs SET note = 'only' WHERE id % 5 = 1",
            "DELETE FROM docs WHERE id % 11 = 0",
            insert(chance, 10_000),
        ]
        source.server.execute(changes, database=source.database)
        pipeline.must("run", "FILE", "--until-current")
        assert assert_equal(source.server, source.database, target.server, target.database) > 2 * ROWS
    counted = (
        "SELECT COUNT(*) FROM docs WHERE JSON_TYPE(doc->'$[0]') = 'DECIMAL' OR JSON_TYPE(doc) = 'DECIMAL'"
    )
    assert target.query(counted)[0][0] > ROWS
