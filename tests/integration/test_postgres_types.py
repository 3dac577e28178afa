"""PostgreSQL's types at their edges: the same text on load and stream, and by name what MySQL does not hold."""

from __future__ import annotations

from pathlib import Path

from tests.accounts import Account
from tests.integration.test_postgres_mirror import compare, current, run_all
from tests.pgaccounts import PostgresAccount
from tests.processes import write_pipeline

STEP = 1000
PREPARE = [
    "CREATE EXTENSION hstore",
    "CREATE EXTENSION citext",
    "CREATE EXTENSION ltree",
    "CREATE TYPE mood AS ENUM ('ok', 'ünï', ' x ', '')",
    "CREATE TYPE pair AS (a int, b text, m mood[])",
    "CREATE DOMAIN price AS numeric(10,2)",
    "CREATE DOMAIN net_price AS price CHECK (VALUE >= 0)",
    "CREATE DOMAIN short_text AS varchar(5)",
    "CREATE DOMAIN ids AS uuid",
    "CREATE DOMAIN ints AS int[]",
    "CREATE DOMAIN feeling AS mood",
    "CREATE DOMAIN couple AS pair",
]
EDGES: dict[str, list[str]] = {
    "numeric": [
        "repeat('9', 35)::numeric",
        "('0.' || repeat('0', 29) || '1')::numeric",
        "'-1.50'",
        "'00012.000'",
    ],
    "numeric(65,30)": ["'-12345678901234567890123456789012345.123456789012345678901234567891'"],
    "numeric(1000,4)": ["'12345678901234567890123456789012345678901234567890123456789.1234'", "'0'"],
    "numeric(40,38)": ["'12.5'"],
    "money": ["'$0.01'::money", "'-$0.10'::money", "'92233720368547758.07'::money"],
    "float4": ["'1e-45'", "'-3.4028235e38'", "'16777217'", "'0.3'"],
    "float8": ["'1e-323'", "'2.2250738585072014e-308'", "'0.1'", "'1e15'", "'1e16'", "'123456789012345680'"],
    "text": [
        "(SELECT string_agg(chr(n), '') FROM generate_series(1, 2047) n)",
        "U&'\\FFFF\\FFFE\\FEFF\\200D\\+10FFFF\\+01F600'",
        "E'\\x1d\\x1e\\x1f\\x1d\\x4e'",
        "' lead and trail '",
        "repeat('ü', 400000)",
    ],
    '"char"': ["'a'", "''", '(-1)::"char"', '(-128)::"char"'],
    "bpchar": ["'any length  '", "''"],
    "char(300)": ["'x'"],
    "varchar": ["'x '", "repeat('y', 70000)"],
    "varchar(5000)": ["repeat('é', 5000)"],
    "citext": ["'CaSe'", "'case'"],
    "bytea": [
        "decode((SELECT string_agg(lpad(to_hex(n), 2, '0'), '') FROM generate_series(0, 255) n), 'hex')"
    ],
    "timetz": ["'00:00:00+15:59:59'", "'23:59:59.999999-15:59:59'", "'24:00:00-12'"],
    "time(0)": ["'23:59:59'"],
    "timestamp": ["'9999-12-31 23:59:59.999999'", "'0001-01-01 00:00:00.000001'"],
    "timestamp(3)": ["'2000-02-29 12:00:00.120'"],
    "timestamptz": [
        "'0001-01-01 00:00:00+00'",
        "'9999-12-31 23:59:59.999999+00'",
        "'2024-03-31 02:30:00 Europe/Berlin'",
    ],
    "interval": [
        "'-1 year +2 mons -3 days +04:05:06.000001'",
        "'178000000 years 11 mons 2147483647 days 2562047788:00:54.775807'",
        "'-178000000 years'",
        "'-00:00:00.000001'",
    ],
    "interval day to second(2)": ["'1 day 00:00:01.23'"],
    "json": [
        """'{"b":1,"a": 1e5, "c": [1E-2, 123456789012345678e3, 1.5e300, -0.0]}'""",
        """'{"big": 123456789012345678901234567890, "dec": 1.10, "n": 1.234567890123456789}'""",
        """'"1e5 \\" 2E5"'""",
    ],
    "jsonb": [
        """'{"big": 123456789012345678901234567890.123456789, "zero": 0.0000000000000000000000000001}'""",
        "'\"\"'",
        "'[[], {}, [null, true, false]]'",
        "to_jsonb(repeat('\"ü', 50000))",
    ],
    "xml": ['\'<?xml version="1.0" encoding="latin1"?><a>é&amp;</a>\'', "''"],
    "mood": ["'ünï'", "' x '", "''"],
    "mood[]": ['\'{ok," x ","",NULL}\''],
    "net_price": ["'12345678.90'", "'0'"],
    "short_text": ["'abcd '"],
    "ids": ["'A0EEBC999C0B4EF8BB6D6BB9BD380A11'"],
    "ints": ["'[-2:-1][0:1]={{1,2},{3,NULL}}'"],
    "feeling": ["'ok'"],
    "couple": ['\'(1,"a ""b""\\\\","{ok,ünï}")\'', "'(,,)'"],
    "pair[]": ["ARRAY[ROW(1,'x',NULL)::pair, NULL]"],
    "text[]": [
        r"ARRAY[NULL, 'NULL', '', ' ', '{}', E'a\\\"b\\\\', 'ü,']",
        "'{{{a}},{{b}}}'",
        "'[5:6]={x,y}'",
    ],
    "bytea[]": ["ARRAY['\\x00ff'::bytea]"],
    "timestamptz[]": ["ARRAY['infinity'::timestamptz, '-infinity', '0044-03-15 BC', '2024-01-01 00:00+05']"],
    "numeric[]": ["'{NaN,1.50}'"],
    "interval[]": ["ARRAY['-1 day'::interval]"],
    "money[]": ["ARRAY['1234.5'::money]"],
    "float8[]": ["'{0.1,NaN,Infinity,-0}'"],
    "int4range": ["'(,)'", "'empty'", "'[,5]'", "'(1,4]'"],
    "numrange": ["'(1.50,2.0]'"],
    "tstzrange": ["'[2024-01-01 00:00+05,infinity)'", "'(-infinity,]'"],
    "daterange": ["'[2024-01-01,2024-02-01]'"],
    "int4multirange": ["'{}'", "'{[1,3),[5,)}'"],
    "hstore": ["""hstore(ARRAY['a', '1', 'b c', NULL, 'q"', ''])""", "''"],
    "ltree": ["'top.science_1'"],
    "lquery": ["'*.foo'"],
    "inet": ["'ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255/127'", "'0.0.0.0/0'", "'1.2.3.4'"],
    "cidr": ["'2001:db8::/32'"],
    "macaddr8": ["'08:00:2b:01:02:03:04:05'"],
    "bit": ["B'1'", "B'0'"],
    "bit(64)": ["repeat('1', 64)::bit(64)", "(B'1' || repeat('0', 63)::varbit)::bit(64)"],
    "bit(65)": ["repeat('1', 65)::bit(65)"],
    "varbit(8)": ["B'0'", "B'00000000'"],
    "line": ["'{1,-2.5,3}'"],
    "lseg": ["'[(0,0),(1e-300,1e300)]'"],
    "path": ["'[(0,0),(1,1)]'", "'((0,0),(1,1))'"],
    "polygon": ["'((0,0),(1,1),(1,0))'"],
    "circle": ["'<(1,2),3.5>'"],
    "point": ["'(NaN,-Infinity)'"],
    "tsvector": ["$$'a''b':1A,2 'c \\\\ d':3C$$"],
    "tsquery": ["'a & !b:*A <2> c'"],
    "jsonpath": ["'$.a[*] ? (@ > 1)'"],
    "tid": ["'(4294967295,65535)'"],
    "xid8": ["'18446744073709551615'"],
    "pg_lsn": ["'FFFFFFFF/FFFFFFFF'", "'0/0'"],
    "int2vector": ["'1 2 3'"],
    "oid[]": ["'{4294967295}'"],
}


def insert(first: int, shift: int = 0) -> str:
    rows = [
        ", ".join(values[(k + shift) % len(values)] for values in EDGES.values())
        for k in range(max(map(len, EDGES.values())))
    ]
    return "INSERT INTO zoo VALUES " + ", ".join(f"({first + k}, {row})" for k, row in enumerate(rows))


def test_edges(postgres_account: PostgresAccount, target_account: Account, tmp_path: Path) -> None:
    """Every value loaded, inserted and updated in; a label joins its enum while the run goes on."""
    source, target = postgres_account, target_account
    names = [f"c{at}" for at in range(len(EDGES))]
    definitions = ", ".join(f"{name} {kind}" for name, kind in zip(names, EDGES, strict=True))
    run_all(
        source,
        [*PREPARE, f"CREATE TABLE zoo (id int PRIMARY KEY, {definitions})", insert(0), insert(2 * STEP, 1)],
    )
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    loaded = compare(source, target)
    moods = ", ".join(
        f"{name} = 'new'" for name, kind in zip(names, EDGES, strict=True) if kind in ("mood", "feeling")
    )
    pairs = ", ".join(f"{name} = s.{name}" for name in names)
    run_all(
        source,
        [
            insert(STEP),
            f"UPDATE zoo t SET {pairs} FROM zoo s WHERE s.id = t.id - {2 * STEP} AND t.id >= {2 * STEP}",
            "ALTER TYPE mood ADD VALUE 'new'",
            f"UPDATE zoo SET {moods} WHERE id = {STEP}",
        ],
    )
    current(pipeline)
    assert compare(source, target) > loaded


def test_indexes_leave_room_for_what_they_hold(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """Columns keep their own lengths in an index of many; those without one share what is left."""
    source, target = postgres_account, target_account
    letters = "abcdefg"
    definitions = ", ".join(f"{letter} varchar(100)" for letter in letters)
    run_all(
        source,
        [
            f"CREATE TABLE wide (id int PRIMARY KEY, {definitions}, UNIQUE ({', '.join(letters)}, id))",
            "CREATE TABLE shared (k text, l int, m text, n uuid, PRIMARY KEY (k, l, m, n))",
            "CREATE TABLE crowded (k varchar(700), l varchar(700), PRIMARY KEY (k, l))",
            f"INSERT INTO wide VALUES (1, {', '.join(['repeat(chr(252), 100)'] * 7)})",
            "INSERT INTO shared VALUES (repeat('ü', 370), 1, repeat('x', 370), gen_random_uuid())",
            "INSERT INTO crowded VALUES (repeat('ü', 384), repeat('x', 384))",
        ],
    )
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    assert compare(source, target) == 3
    types = dict(
        target.query(
            "SELECT CONCAT(table_name, '.', column_name), column_type FROM information_schema.columns"
            " WHERE table_schema = DATABASE()"
        )
    )
    assert [types[f"wide.{letter}"] for letter in letters] == ["varchar(100)"] * 7
    assert types["shared.k"] == types["shared.m"] == "varchar(375)"
    assert types["crowded.k"] == "varchar(384)"


def test_another_search_path_changes_nothing(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """Names of types would be spelt otherwise, and the table look altered."""
    source, target = postgres_account, target_account
    run_all(
        source,
        [
            "CREATE TYPE mood AS ENUM ('ok', 'bad')",
            "CREATE TABLE t (id int PRIMARY KEY, m mood, c regclass)",
            "INSERT INTO t VALUES (1, 'ok', 't')",
        ],
    )
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    name = source.database
    source.server.execute(f"ALTER ROLE {name} IN DATABASE {name} SET search_path = public", database=name)
    run_all(source, [f"INSERT INTO {name}.t VALUES (2, 'bad', '{name}.t')"])
    current(pipeline)
    assert target.query("SELECT * FROM t ORDER BY id") == [(1, "ok", f"{name}.t"), (2, "bad", f"{name}.t")]
