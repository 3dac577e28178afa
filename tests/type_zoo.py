"""Tables with every column type and every kind of index and default, as each source product writes them."""

from __future__ import annotations

from typing import Any

from replicator.model import TableSchema
from replicator.readers.mysql_catalog import describe, list_tables
from replicator.servers import Server

SQL_MODE = "ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO"

NUMBERS = """CREATE TABLE numbers (
  id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  t TINYINT, tu TINYINT UNSIGNED NOT NULL DEFAULT 3, flag TINYINT(1), s SMALLINT, su SMALLINT UNSIGNED,
  m MEDIUMINT, mu MEDIUMINT UNSIGNED, i INT DEFAULT -7, iu INT UNSIGNED, iz INT(5) ZEROFILL, b BIGINT,
  d DECIMAL(65,30), d0 DECIMAL(10) DEFAULT 1.5, du DECIMAL(12,2) UNSIGNED, dz DECIMAL(8,2) ZEROFILL,
  f FLOAT, fd FLOAT(7,2), fu FLOAT UNSIGNED, f24 FLOAT(24), g DOUBLE DEFAULT 1.5e10, gd DOUBLE(10,3), r REAL,
  b1 BIT(1) DEFAULT b'1', b9 BIT(9), b64 BIT(64) DEFAULT b'101', y YEAR DEFAULT 2020, bo BOOLEAN,
  KEY (b), UNIQUE (iu, t)
) COMMENT 'it''s a \\\\ zoo'"""

TIMES = """CREATE TABLE times (
  d DATE NOT NULL DEFAULT '0000-00-00', t TIME, t3 TIME(3), t6 TIME(6) DEFAULT '-838:59:59.000000',
  dt DATETIME DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
  dt3 DATETIME(3) NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3), dt6 DATETIME(6),
  ts TIMESTAMP NULL, ts1 TIMESTAMP(1) NULL DEFAULT NULL,
  ts6 TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
  PRIMARY KEY (d)
)"""

STRINGS = """CREATE TABLE strings (
  id INT PRIMARY KEY,
  c CHAR(10) CHARACTER SET latin1 DEFAULT 'it''s "q" \\\\', v VARCHAR(200) NOT NULL DEFAULT '',
  v3 VARCHAR(100) CHARACTER SET utf8mb3, v16 VARCHAR(100) CHARACTER SET utf16, vg VARCHAR(100) CHARACTER SET gbk,
  vs VARCHAR(100) CHARACTER SET sjis COLLATE sjis_bin, va VARCHAR(20) CHARACTER SET ascii DEFAULT 'NULL',
  bi BINARY(4) DEFAULT 'ab', vb VARBINARY(300) DEFAULT 'x', tb TINYBLOB, b BLOB, mb MEDIUMBLOB, lb LONGBLOB,
  tt TINYTEXT, t TEXT, mt MEDIUMTEXT, lt LONGTEXT CHARACTER SET latin1,
  e ENUM('a','b''c','d\\\\e','f,g','ü','h"i','','x\\ny') DEFAULT 'b''c', s SET('x','y z','it''s') DEFAULT 'x,it''s',
  el ENUM('ä','ß') CHARACTER SET latin1,
  UNIQUE KEY `odd ``name` (v), KEY prefixed (t(10), c), FULLTEXT KEY words (mt), FULLTEXT KEY more_words (t)
)"""

SHAPES = """CREATE TABLE shapes (
  id INT PRIMARY KEY, g GEOMETRY, p POINT NOT NULL, l LINESTRING, y POLYGON, mp MULTIPOINT, ml MULTILINESTRING,
  my MULTIPOLYGON, gc GEOMETRYCOLLECTION, SPATIAL KEY place (p)
)"""

COMPUTED = """CREATE TABLE computed (
  g0 INT GENERATED ALWAYS AS (a + 1) VIRTUAL,
  a INT NOT NULL, `select` VARCHAR(20) COMMENT 'a ''quoted'' \\\\ comment',
  g1 VARCHAR(60) GENERATED ALWAYS AS (CONCAT(`select`, 'it''s \\\\ "x"')) STORED,
  g2 INT GENERATED ALWAYS AS ((a) * (2)) STORED COMMENT 'twice',
  z INT, PRIMARY KEY (a), UNIQUE KEY by_g (g2), KEY by_g0 (g0)
)"""

UNIQUE_ONLY = """CREATE TABLE unique_only (
  n VARCHAR(10) NULL, code VARCHAR(10) NOT NULL, num INT NOT NULL, UNIQUE KEY nullable (n),
  UNIQUE KEY prefixed (code(3)), UNIQUE KEY whole (num, code)
)"""

KEYLESS = "CREATE TABLE keyless (a INT, b INT NOT NULL, UNIQUE (a))"

LATE_COUNTER = "CREATE TABLE late_counter (k VARCHAR(10) PRIMARY KEY, n INT NOT NULL AUTO_INCREMENT, UNIQUE KEY counter (n))"

PARENTS = """CREATE TABLE parents (
  a INT, b INT, PRIMARY KEY (a, b), up_a INT, up_b INT,
  CONSTRAINT self FOREIGN KEY (up_a, up_b) REFERENCES parents (a, b) ON DELETE CASCADE
)"""
CHILDREN = """CREATE TABLE children (
  id INT PRIMARY KEY, a INT, b INT, FOREIGN KEY (a, b) REFERENCES parents (a, b) ON DELETE SET NULL ON UPDATE CASCADE
)"""

COMMON = [
    NUMBERS,
    TIMES,
    STRINGS,
    SHAPES,
    COMPUTED,
    UNIQUE_ONLY,
    KEYLESS,
    LATE_COUNTER,
    PARENTS,
    CHILDREN,
    "CREATE VIEW a_view AS SELECT 1 AS one",
]

MYSQL = [
    *COMMON,
    """CREATE TABLE modern (
  id INT PRIMARY KEY, j JSON, jd JSON DEFAULT (JSON_OBJECT('a', 'it''s')), v VECTOR(3), v0 VECTOR,
  hidden INT INVISIBLE DEFAULT 5, e VARCHAR(40) DEFAULT (CONCAT('a''b', '\\\\')), u CHAR(36) DEFAULT (UUID()),
  b BLOB DEFAULT ('abc'), p POINT SRID 4326 NOT NULL, bin_ BINARY(16) DEFAULT (UUID_TO_BIN(UUID())),
  ci VARCHAR(20) COLLATE utf8mb4_0900_as_cs, dd DATE DEFAULT (CURRENT_DATE),
  KEY down (ci DESC, id), KEY computed ((CONCAT(ci, 'x\\\\'))), UNIQUE KEY unique_computed ((LOWER(ci))),
  KEY unseen (e) INVISIBLE, SPATIAL KEY (p), CHECK (id > 0)
)""",
    "SET SESSION sql_generate_invisible_primary_key = ON",
    "CREATE TABLE generated_key (a INT)",
    "SET SESSION sql_generate_invisible_primary_key = OFF",
]

MARIADB = [
    *COMMON,
    "CREATE SEQUENCE counter",
    """CREATE TABLE modern (
  id INT PRIMARY KEY, j JSON DEFAULT '{"a": 1}', u UUID DEFAULT UUID(), a4 INET4, a6 INET6 DEFAULT '::1',
  hidden INT INVISIBLE DEFAULT 5, e VARCHAR(40) DEFAULT CONCAT('a''b', '\\\\'), b BLOB DEFAULT 'abc',
  t TEXT COMPRESSED CHARACTER SET latin1, vc VARCHAR(200) COMPRESSED, dd DATE DEFAULT CURDATE(),
  n VARCHAR(30) DEFAULT CURRENT_TIMESTAMP(), sq BIGINT DEFAULT NEXTVAL(counter), js TEXT DEFAULT JSON_DETAILED('{}'),
  np VARCHAR(20) CHARACTER SET latin1 COLLATE latin1_swedish_nopad_ci,
  nt TEXT CHARACTER SET latin1 COLLATE latin1_swedish_nopad_ci,
  uc VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_uca1400_as_ci, UNIQUE KEY by_np (np), UNIQUE KEY by_uc (uc),
  UNIQUE KEY long_text (nt), KEY unseen (e) IGNORED, KEY down (dd DESC)
)""",
    "CREATE TABLE versioned (id INT PRIMARY KEY) WITH SYSTEM VERSIONING",
]


def make_zoo(server: Server, database: str) -> None:
    """Create all the tables in ``database``."""
    statements = MARIADB if server.kind == "mariadb" else MYSQL
    server.execute([f"SET SESSION sql_mode = '{SQL_MODE}'", *statements], database=database)


def describe_all(connection: Any, database: str, skip: tuple[str, ...] = ()) -> list[TableSchema]:
    """The schemas of all tables of ``database``, each with its own name at the target."""
    names = [name for name in list_tables(connection) if name.schema == database and name.table not in skip]
    return describe(connection, {name: name.table for name in names})
