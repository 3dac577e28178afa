"""Types, exactly: every column type of both products, at its extremes and NULL, on every way to the target (I6, I10)."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.servers import Server
from tests.accounts import Account
from tests.contract.paths import Columns, Zoo, mirror, run_all
from tests.integration.test_rowcodec_server import (
    DECIMALS,
    FLOATS,
    INTEGERS,
    JSONS,
    LABELS,
    MARIADB_ONLY,
    OPAQUE,
    SHAPES,
    STRINGS,
    temporals,
)
from tests.processes import write_pipeline
from tests.targets import set_global

BITS: Columns = {
    f"BIT({n})": ["0", f"b'{'1' * n}'", f"b'1{'01' * 32}'" if n == 64 else "1"] for n in range(1, 64)
}
BITS["BIT(64)"] = ["0", f"b'{'1' * 64}'", f"b'{'01' * 32}'", "1"]

LARGE: Columns = {
    "LONGTEXT": ["repeat('é\\\\''\\t', 700000)", "''", "repeat('x', 16777217)"],
    "LONGBLOB": ["repeat(x'00ff270a5c1a', 500000)", "x'00'"],
    "MEDIUMTEXT CHARACTER SET latin1": ["repeat('ÿ', 3000000)", "'a'"],
    "MEDIUMBLOB": ["repeat(x'5c', 3000000)", "''"],
}  # fmt: skip

# Every control character, quote, backslash and line end that some way of writing treats as its own.
NASTY = (
    "CONCAT(UNHEX('"
    + "".join(f"{n:02x}" for n in range(128))
    + "'), '\\\\N', '\\\\0', '''\"`', '\\r\\n', ',')"
)
ESCAPES: Columns = {
    "VARCHAR(400)": [NASTY, "'\\\\N'", "'NULL'", "''", "'\\\\'", "'\\''", "'a\\tb\\nc\\r'", "x'0b0c1a'"],
    "VARBINARY(400)": [NASTY, "'\\\\N'", "'NULL'", "''", "'\\\\'", "'\\''", "x'1a00'", "x'ff5c27'"],
    "CHAR(100) CHARACTER SET latin1": ["'\\\\N'", "' lead'", "'\\0'", "'\\n'"],
    "TEXT CHARACTER SET gbk": ["_gbk x'bf5c'", "_gbk x'bf5c5c27'", "'\\\\'", "''''"],
    "TEXT CHARACTER SET sjis": ["_sjis x'835c'", "_sjis x'835c27'", "'\\\\'"],
    "TEXT CHARACTER SET utf16": ["_utf16 x'005c0027'", "_utf16 x'275c5c27'"],
    "ENUM('', '\\\\', '''', '\\t', 'a,b', '\\\\N', 'NULL')": ["1", "2", "3", "4", "5", "6", "7", "0"],
    "SET('\\\\', '''', '\\t', '\\\\N', 'NULL')": ["0", "1", "2", "4", "8", "16", "31"],
}  # fmt: skip

MYSQL_ONLY: Columns = {
    "VECTOR(3)": ["TO_VECTOR('[1,-2.5,3e38]')", "TO_VECTOR('[0,-0.0,1.2e-38]')"],
    "VECTOR": ["TO_VECTOR('[1]')", f"TO_VECTOR('[{','.join(['1.5'] * 2048)}]')"],
    "POINT SRID 4326": ["ST_GeomFromText('POINT(51.5 -0.1)', 4326)"],
    "GEOMETRY SRID 0": ["ST_GeomFromText('LINESTRING(0 0,1 1)')"],
    "MULTIPOLYGON": ["ST_GeomFromText('MULTIPOLYGON(((0 0,1 0,1 1,0 0)),((5 5,6 5,6 6,5 5)))')"],
    "MULTIPOINT": ["ST_GeomFromText('MULTIPOINT(0 0,1 1)', 3857)"],
    "GEOMCOLLECTION": ["ST_GeomFromText('GEOMETRYCOLLECTION EMPTY')"],
    "VARCHAR(40) COLLATE utf8mb4_0900_as_cs": ["'Ä'", "'ä '"],
}

JSON_AS_TEXT: Columns = {
    "JSON": ["'{\"b\": 1,   \"a\": 1.50}'", "'[ ]'", "'\"é\\\\u00e9\"'", "'18446744073709551616'", "'{\"a\":1,\"a\":2}'"],
}  # fmt: skip


# Decimals at every kind of place, beside documents that have none; the server prints them with all their digits.
JSON_DECIMALS: Columns = {
    "JSON": [
        "JSON_OBJECT('price', CAST(12.50 AS DECIMAL(10,2)), 'qty', 3)", "CAST(CAST(1.50 AS DECIMAL(3,2)) AS JSON)",
        "JSON_OBJECT('it''s \"\\\\ .é', JSON_ARRAY(1, JSON_OBJECT('', 2.50)), 'n', NULL)", "'{\"price\": 12.5}'",
        "JSON_ARRAY(1.10, 18446744073709551616, -9223372036854775809, 0.1, 1e0, 1.00, '1.50', 'a, 1.50, ')",
        "CAST(CAST(repeat('9', 65) AS DECIMAL(65,0)) AS JSON)", "JSON_ARRAY(CAST(1e-30 AS DECIMAL(30,30)), 1/3, 2/3e0)",
        f"JSON_SET('{'[' * 99}1{']' * 99}', '${'[0]' * 99}', 7.70)", "JSON_ARRAY(repeat('x', 70000), 7.00)",
        "JSON_ARRAY(DATE'2024-01-02', 3.30, TIMESTAMP'2024-01-02 03:04:05.678900', x'00ff')", "'\"1.50\"'",
    ],
    "VARCHAR(20)": ["'1.50'", "'12.50, '"],
    "JSON COMMENT 'another'": ["JSON_ARRAY(1, 2)", "JSON_OBJECT('b', 0.10)", "'[]'"],
}  # fmt: skip

COMMON = [
    Zoo("integers", INTEGERS),
    Zoo("bits", BITS),
    Zoo("decimals", DECIMALS),
    Zoo("floats", FLOATS),
    Zoo("temporals", temporals()),
    Zoo("strings", STRINGS),
    Zoo("escapes", ESCAPES),
    Zoo("labels", LABELS),
    Zoo("shapes", SHAPES),
    Zoo("jsons", JSONS),
]
OWN = {
    "mysql": [Zoo("opaque", OPAQUE), Zoo("json_decimals", JSON_DECIMALS), Zoo("modern", MYSQL_ONLY)],
    "mariadb": [Zoo("own", MARIADB_ONLY), Zoo("json_text", JSON_AS_TEXT)],
}


@pytest.mark.parametrize("local_infile", ["ON", "OFF"])
def test_every_type_arrives_on_every_way(
    source_account: Account, target_account: Account, tmp_path: Path, local_infile: str
) -> None:
    pipeline = write_pipeline(tmp_path, source_account, target_account)
    with set_global(target_account.server, "local_infile", local_infile):
        zoos = [*COMMON, *OWN[source_account.server.kind]]
        assert mirror(source_account, target_account, pipeline, zoos) > 4 * sum(zoo.count for zoo in zoos)


def test_large_values_arrive(source_account: Account, target_account: Account, tmp_path: Path) -> None:
    """Values of megabytes, and one row that is larger than a packet of either protocol."""
    pipeline = write_pipeline(tmp_path, source_account, target_account)
    source_account.server.execute("SET GLOBAL max_allowed_packet = 67108864")
    with set_global(target_account.server, "max_allowed_packet", "67108864"):
        mirror(source_account, target_account, pipeline, [Zoo("large", LARGE)])


def charsets(server: Server) -> list[tuple[str, int]]:
    return [
        (str(name), int(size))
        for name, size in server.execute(
            "SELECT character_set_name, maxlen FROM information_schema.character_sets WHERE character_set_name"
            " NOT IN ('binary') ORDER BY 1"
        )
    ]


def characters(charset: str, size: int) -> list[str]:
    """Every byte of a set of single bytes; of the others some letters of many scripts that it has."""
    if size == 1:
        top = 128 if charset == "ascii" else 256
        return [
            f"_{charset} x'{''.join(f'{n:02x}' for n in range(start, start + 32))}'"
            for start in range(0, top, 32)
        ]
    letters = 'aé€ßЖя漢字カナ가각한ñü×"~¥‾〜−'
    return [f"CONVERT(_utf8mb4 '{c}' USING {charset})" for c in [*letters, "\\'", "\\\\"]]


@pytest.mark.parametrize("local_infile", ["ON", "OFF"])
def test_every_character_set_arrives(
    source_account: Account, target_account: Account, tmp_path: Path, local_infile: str
) -> None:
    columns = {
        f"VARCHAR(40) CHARACTER SET {name} COMMENT '{name}'": [*characters(name, size), "''"]
        for name, size in charsets(source_account.server)
    }
    pipeline = write_pipeline(tmp_path, source_account, target_account)
    half = len(columns) // 2
    parts = [dict(list(columns.items())[:half]), dict(list(columns.items())[half:])]
    with set_global(target_account.server, "local_infile", local_infile):
        mirror(
            source_account,
            target_account,
            pipeline,
            [Zoo(f"charsets{i}", part) for i, part in enumerate(parts)],
        )


OTHERWISE = (
    "CREATE TABLE otherwise (k VARCHAR(20) PRIMARY KEY, v VARCHAR(40), e ENUM('é','z'), s SET('ü','y'))"
    " CHARACTER SET "
)


@pytest.mark.parametrize("local_infile", ["ON", "OFF"])
@pytest.mark.parametrize("charset", ["latin1", "gbk", "dec8", "ucs2"])
def test_an_existing_table_in_another_character_set_gets_the_same_characters(
    source_account: Account, target_account: Account, tmp_path: Path, charset: str, local_infile: str
) -> None:
    """Also where the source's bytes would pass as UTF-8 of other characters, and where its set's name gives a warning."""
    source, target = source_account, target_account
    words = [f"CONVERT(_utf8mb4 '{word}' USING {charset})" for word in ("é", "b", "ü", "k")]
    misread = "x'C3A9'" if charset != "ucs2" else "x'00E9'"
    rows = [f"({word}, {misread}, 'é', 'ü')" for word in words]
    run_all(source, [OTHERWISE + charset, f"INSERT INTO otherwise VALUES {', '.join(rows)}"])
    target.query(OTHERWISE + "utf8mb4 COLLATE utf8mb4_0900_bin")
    pipeline = write_pipeline(tmp_path, source, target)
    query = "SELECT * FROM otherwise ORDER BY HEX(CONVERT(k USING utf8mb4))"
    with set_global(target.server, "local_infile", local_infile):
        pipeline.must("load", "FILE")
        assert source.query(query) == target.query(query) != []
        run_all(
            source,
            [
                f"INSERT INTO otherwise VALUES (CONCAT({words[0]}, '1'), {misread}, 'z', 'ü,y')",
                f"UPDATE otherwise SET v = CONCAT(v, {words[2]}), e = 'z' WHERE k = {words[0]}",
                f"UPDATE otherwise SET k = CONCAT({words[0]}, '2') WHERE k = {words[2]}",
                f"DELETE FROM otherwise WHERE k = {words[3]}",
            ],
        )
        pipeline.must("run", "FILE", "--until-current")
    assert source.query(query) == target.query(query)
    assert len(source.query(query)) == 4


def test_generated_invisible_and_zero(
    source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    """Generated columns compute themselves, AUTO_INCREMENT keeps 0, invisible columns travel."""
    run_all(source_account, [COMPUTED, *computed_rows(0)])
    pipeline = write_pipeline(tmp_path, source_account, target_account)
    pipeline.must("load", "FILE")
    run_all(
        source_account,
        [
            "DELETE FROM computed WHERE id = 0",
            *computed_rows(10),
            "INSERT INTO computed (id, a) VALUES (0, 5000)",
            "UPDATE computed SET a = a + 7000, hidden = NULL WHERE id IN (0, 11)",
        ],
    )
    pipeline.must("run", "FILE", "--until-current")
    query = "SELECT id, before_, a, virtual_, HEX(stored_), hidden FROM computed ORDER BY id"
    rows = source_account.query(query)
    assert rows[0][0] == 0
    assert rows == target_account.query(query)


COMPUTED = """CREATE TABLE computed (
  before_ VARCHAR(30) GENERATED ALWAYS AS (CONCAT('x', a)) STORED,
  id INT AUTO_INCREMENT PRIMARY KEY, a INT NOT NULL,
  virtual_ INT GENERATED ALWAYS AS (a + 1) VIRTUAL,
  stored_ VARCHAR(60) GENERATED ALWAYS AS (CONCAT(a, ' it''s \\\\ "', before_)) STORED,
  hidden INT INVISIBLE DEFAULT 5, UNIQUE KEY by_virtual (virtual_)
)"""


def computed_rows(first: int) -> list[str]:
    rows = ", ".join(f"({first + k}, {100 * first + k})" for k in range(5))
    return [
        f"INSERT INTO computed (id, a) VALUES {rows}",
        f"UPDATE computed SET hidden = {first} WHERE id = {first + 1}",
    ]
