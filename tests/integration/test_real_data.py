"""Real data: sakila, chinook and a year of flights, loaded and then changed while they are mirrored (I1, I6).

The data is no part of the project: ``REPLICATOR_FIXTURES`` names the folder, and without it these tests are skipped.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.servers import Server
from tests.accounts import Account, make_target_account
from tests.compare import Side, assert_equal, list_tables
from tests.pgaccounts import PostgresAccount
from tests.pgscripts import read_statements
from tests.processes import PipelineFile, end, follow, write_pipeline

SESSION = "SET SESSION time_zone = '+00:00', NAMES utf8mb4"


@pytest.fixture
def pipeline(source_account: Account, target_account: Account, tmp_path: Path) -> PipelineFile:
    return write_pipeline(tmp_path, source_account, target_account)


def load_script(account: Account, *paths: Path, before: str = SESSION) -> None:
    """Run scripts in the account's own database instead of the one they name."""
    text = before + ";\n" + "".join(path.read_text("latin-1") for path in paths)
    text = re.sub(r"(?im)^\s*(USE|CREATE (DATABASE|SCHEMA)|DROP (DATABASE|SCHEMA))\b[^;]*;", "", text)
    text = re.sub(r"\bsakila\.", "", text)
    # A table that is in no snapshot is refused (and with GTIDs the script's own triggers fail on it).
    text = text.replace("ENGINE=MyISAM", "ENGINE=InnoDB")
    script = Path(account.server.directory / "script.sql")
    script.write_text(text, "latin-1")  # as it came: pictures are in it
    account.server.load_file(script, database=account.database)


def write(account: Account, *statements: str) -> None:
    """One transaction each, foreign keys checked."""
    account.server.execute([SESSION, *statements], database=account.database)


@contextlib.contextmanager
def mirroring(pipeline: PipelineFile) -> Iterator[None]:
    """`run` at work in the background; at the end it is stopped and what is left is applied."""
    process = pipeline.start("run", "FILE")
    follow(process, "state=")
    try:
        yield
    finally:
        code, output = end(process)
    assert code == 0, output
    pipeline.must("run", "FILE", "--until-current")


def compare(source: Account, target: Account) -> int:
    return assert_equal(source.server, source.database, target.server, target.database)


# --- sakila -----------------------------------------------------------------------------------------------------------

SAKILA_CHANGES = [
    # every column of one table, by arithmetic on what is there
    "UPDATE film SET title = CONCAT(title, ' é €'), description = REPLACE(description, 'a', 'ä'),"
    " release_year = 1901 + film_id % 200, original_language_id = 1 + film_id % 6, rental_duration = film_id % 250,"
    " rental_rate = film_id / 100 - 4, length = NULL, replacement_cost = -replacement_cost,"
    " rating = ELT(1 + film_id % 6, 'G', 'PG', 'PG-13', 'R', 'NC-17', NULL), special_features = film_id % 16,"
    " last_update = TIMESTAMPADD(SECOND, film_id, '1970-01-01 00:00:01')",
    "UPDATE staff SET picture = CONCAT(picture, x'00ff0a5c27'), password = NULL WHERE staff_id = 1",
    "UPDATE staff SET picture = REPEAT(x'00', 65535), active = 0 WHERE staff_id = 2",
    # keys change and drag their children along
    "UPDATE actor SET actor_id = actor_id + 10000",
    "UPDATE film SET film_id = film_id + 20000 WHERE film_id % 3 = 0",
    "UPDATE customer SET customer_id = customer_id + 30000 WHERE customer_id % 5 = 0 ORDER BY customer_id DESC",
    "UPDATE language SET language_id = language_id + 100 WHERE language_id = 1",
    "UPDATE country SET country_id = 60000 WHERE country = 'Germany'",
    # children whose key becomes NULL
    "DELETE FROM rental WHERE rental_id % 7 = 0",
    # a row that is deleted and comes back, in one transaction and in two
    "BEGIN; DELETE FROM film_actor WHERE film_id < 50; INSERT INTO film_actor (actor_id, film_id, last_update)"
    " SELECT actor_id, film_id, '2001-02-03' FROM actor, film WHERE film_id < 20 AND actor_id < 10010; COMMIT",
    "DELETE FROM film_category",
    "INSERT INTO film_category (film_id, category_id) SELECT film_id, 1 + film_id % 16 FROM film",
    # unique values that change places
    "BEGIN; UPDATE store SET manager_staff_id = 3 - manager_staff_id WHERE store_id = 0;"
    " INSERT INTO staff (staff_id, first_name, last_name, address_id, store_id, username)"
    " VALUES (9, 'New', 'One', 1, 1, 'new'); UPDATE store SET manager_staff_id = 9 WHERE store_id = 1;"
    " UPDATE store SET manager_staff_id = 1 WHERE store_id = 2; UPDATE store SET manager_staff_id = 2 WHERE store_id = 1;"
    " DELETE FROM staff WHERE staff_id = 9; COMMIT",
    "BEGIN; UPDATE payment SET amount = amount * 2; SAVEPOINT s; DELETE FROM payment; ROLLBACK TO SAVEPOINT s; COMMIT",
    "BEGIN; DELETE FROM payment; ROLLBACK",
    "INSERT INTO address (address, address2, district, city_id, phone @)"
    " SELECT CONCAT('No ', city_id, ' \\\\ \\'x\\''), NULL, '', city_id, city_id # FROM city",
    "DELETE FROM payment WHERE payment_date < '2005-07-01'",
]


def spell(statement: str, address: list[str]) -> str:
    """With the geometry column of those scripts that have one."""
    has_location = "location" in address
    point = ", ST_GeomFromText(CONCAT('POINT(', city_id, ' ', city_id / 7, ')'))"
    return statement.replace(" @", ", location" if has_location else "").replace(
        " #", point if has_location else ""
    )


def test_sakila(
    source_account: Account, target_account: Account, pipeline: PipelineFile, fixtures_dir: Path
) -> None:
    folder = fixtures_dir / "sakila" / "mysql-official"
    load_script(source_account, folder / "sakila-schema.sql", folder / "sakila-data.sql")
    pipeline.must("load", "FILE")
    assert compare(source_account, target_account) > 40_000
    columns = [str(row[0]) for row in source_account.query("SHOW COLUMNS FROM address")]
    with mirroring(pipeline):
        for statement in SAKILA_CHANGES:
            write(source_account, spell(statement, columns))
    assert compare(source_account, target_account) > 30_000


# --- chinook ----------------------------------------------------------------------------------------------------------

CHINOOK_CHANGES = [
    "UPDATE `Track` SET `Name` = CONCAT(`Name`, ' ', `Name`), `Composer` = NULLIF(`Composer`, 'Jerry Cantrell'),"
    " `Milliseconds` = -`Milliseconds`, `Bytes` = NULL, `UnitPrice` = 99999999.99 WHERE `TrackId` % 2 = 0"
    " AND CHAR_LENGTH(`Name`) < 90",
    "UPDATE `Employee` SET `ReportsTo` = NULL, `BirthDate` = '1000-01-01', `HireDate` = '9999-12-31 23:59:59'",
    "UPDATE `Employee` SET `ReportsTo` = `EmployeeId` % 8 + 1",
    "BEGIN; DELETE FROM `InvoiceLine` WHERE `InvoiceId` IN (SELECT `InvoiceId` FROM `Invoice` WHERE `CustomerId` = 1);"
    " DELETE FROM `Invoice` WHERE `CustomerId` = 1; DELETE FROM `Customer` WHERE `CustomerId` = 1; COMMIT",
    "BEGIN; DELETE FROM `PlaylistTrack` WHERE `PlaylistId` = 1; DELETE FROM `Playlist` WHERE `PlaylistId` = 1;"
    " INSERT INTO `Playlist` VALUES (1, '日本語 \\\\'); INSERT INTO `PlaylistTrack` SELECT 1, `TrackId` FROM `Track`"
    " WHERE `TrackId` < 100; COMMIT",
    "UPDATE `InvoiceLine` SET `InvoiceLineId` = `InvoiceLineId` + 5000, `Quantity` = `Quantity` + 1",
    "UPDATE `PlaylistTrack` SET `TrackId` = 3504 - `TrackId` WHERE `PlaylistId` = 12 AND `TrackId` > 3460",
    "INSERT INTO `Customer` (`CustomerId`, `FirstName`, `LastName`, `Email`) VALUES (0, '', ' x ', 'a@b')",
    "UPDATE `Customer` SET `State` = '', `Company` = NULL, `PostalCode` = '\\\\N'",
]


def test_chinook(
    source_account: Account, target_account: Account, pipeline: PipelineFile, fixtures_dir: Path
) -> None:
    write(source_account, f"ALTER DATABASE {source_account.database} CHARACTER SET utf8mb4")
    load_script(source_account, fixtures_dir / "chinook/ChinookDatabase/DataSources/Chinook_MySql.sql")
    pipeline.must("load", "FILE")
    assert compare(source_account, target_account) > 12_000
    with mirroring(pipeline):
        for statement in CHINOOK_CHANGES:
            write(source_account, statement)
    assert compare(source_account, target_account) > 12_000


DATES = {"employee": ["birth_date", "hire_date"], "invoice": ["invoice_date"]}
"""A timestamp of PostgreSQL has fractions of a second, MySQL's DATETIME in this data has none."""


def run_psql(account: PostgresAccount, path: Path) -> None:
    """Run a script in the account's own database instead of the one it makes.

    N'x ' is a character(2) for PostgreSQL, whose blank is gone before it comes into a varchar: the source itself would not
    hold what MySQL's does.
    """
    with account.connect() as connection:
        for statement in read_statements(re.sub(r"(?<=, )N'", "'", path.read_text())):
            if not re.match(r"(CREATE|DROP) DATABASE", statement):
                connection.execute(statement.encode())


def plain(name: str) -> str:
    """What ``InvoiceLine`` and ``invoice_line`` have in common."""
    return name.replace("_", "").lower()


def read_tables(target: Account) -> dict[str, Any]:
    """Every table with its columns, their types and all its rows, whatever the names' spelling and the columns' order."""
    tables = {}
    for table in list_tables(target.server, target.database):
        side = Side(target.server, target.database, table)
        types = target.query(
            "SELECT column_name, column_type, is_nullable, column_key = 'PRI' FROM information_schema.columns"
            f" WHERE table_schema = DATABASE() AND table_name = '{table}'"
        )
        columns = sorted(side.columns(), key=lambda column: plain(column[0]))
        tables[plain(table)] = sorted((plain(name), *rest) for name, *rest in types), side.rows(columns)
    return tables


def read_references(target: Account) -> list[tuple[str, ...]]:
    rows = target.query(
        "SELECT table_name, column_name, referenced_table_name, referenced_column_name"
        " FROM information_schema.key_column_usage WHERE table_schema = DATABASE() AND referenced_table_name IS NOT NULL"
    )
    return sorted(tuple(map(plain, row)) for row in rows)


def test_chinook_is_the_same_target_from_either_engine(
    mysql_source_account: Account,
    postgres_account: PostgresAccount,
    mysql_target: Server,
    fixtures_dir: Path,
    tmp_path: Path,
) -> None:
    folder = fixtures_dir / "chinook/ChinookDatabase/DataSources"
    mine = mysql_source_account
    write(mine, f"ALTER DATABASE {mine.database} CHARACTER SET utf8mb4")
    # A backslash is one of the data, as for PostgreSQL.
    plain_strings = f"{SESSION}; SET SESSION sql_mode = CONCAT(@@sql_mode, ',NO_BACKSLASH_ESCAPES')"
    load_script(mine, folder / "Chinook_MySql.sql", before=plain_strings)
    run_psql(postgres_account, folder / "Chinook_PostgreSql.sql")
    schema = postgres_account.database
    dates = {
        f"{schema}.{table}": {"columns": {column: {"type": "datetime"} for column in columns}}
        for table, columns in DATES.items()
    }
    with make_target_account(mysql_target) as first, make_target_account(mysql_target) as second:
        write_pipeline(tmp_path, mine, first, name="mysql").must("load", "FILE")
        write_pipeline(
            tmp_path, postgres_account, second, name="postgres", tables={f"{schema}.*": {}, **dates}
        ).must("load", "FILE")
        ours, theirs = read_tables(first), read_tables(second)
        assert sum(rows.total() for _, rows in ours.values()) > 15_000
        assert ours.keys() == theirs.keys()
        for table, (columns, rows) in ours.items():
            assert theirs[table][0] == columns, table
            assert theirs[table][1] == rows, table
        references = read_references(first)
        assert len(references) == 11
        assert read_references(second) == references


# --- flights ----------------------------------------------------------------------------------------------------------

FLIGHTS = {
    "flights": "id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY, year SMALLINT NOT NULL, month TINYINT NOT NULL,"
    " day TINYINT NOT NULL, dep_time SMALLINT, sched_dep_time SMALLINT NOT NULL, dep_delay SMALLINT,"
    " arr_time SMALLINT, sched_arr_time SMALLINT NOT NULL, arr_delay SMALLINT, carrier CHAR(2) NOT NULL,"
    " flight SMALLINT UNSIGNED NOT NULL, tailnum VARCHAR(6), origin CHAR(3) NOT NULL, dest CHAR(3) NOT NULL,"
    " air_time SMALLINT, distance INT NOT NULL, hour TINYINT NOT NULL, minute TINYINT NOT NULL,"
    " time_hour DATETIME NOT NULL, KEY tailnum (tailnum)",
    "airports": "faa CHAR(3) PRIMARY KEY, name VARCHAR(60) NOT NULL, lat DOUBLE NOT NULL, lon DOUBLE NOT NULL, alt INT,"
    " tz DECIMAL(4,2), dst CHAR(1), tzone VARCHAR(40)",
    "airlines": "carrier CHAR(2) PRIMARY KEY, name VARCHAR(60) NOT NULL, UNIQUE KEY name (name)",
    "planes": "tailnum VARCHAR(6) PRIMARY KEY, year YEAR, type VARCHAR(40) NOT NULL, manufacturer VARCHAR(40) NOT NULL,"
    " model VARCHAR(40) NOT NULL, engines TINYINT NOT NULL, seats SMALLINT NOT NULL, speed SMALLINT,"
    " engine VARCHAR(40) NOT NULL",
}

FLIGHT_CHANGES = [
    "UPDATE flights SET dep_delay = dep_delay + 1, tailnum = LOWER(tailnum) WHERE month = 3",
    "UPDATE flights SET arr_delay = NULL, time_hour = time_hour + INTERVAL 1 DAY WHERE carrier = 'AA'",
    "UPDATE flights SET id = id + 1000000 WHERE day = 31 ORDER BY id DESC",
    "DELETE FROM flights WHERE month = 12 AND id < 1000000",
    "INSERT INTO flights SELECT id + 2000000, year, month, day, dep_time, sched_dep_time, dep_delay, arr_time,"
    " sched_arr_time, arr_delay, carrier, flight, tailnum, origin, dest, air_time, distance, hour, minute, time_hour"
    " FROM flights WHERE month = 1",
    "DELETE FROM flights WHERE dest = 'ATL'",
    "BEGIN; UPDATE airlines SET name = 'x' WHERE carrier = 'AA'; UPDATE airlines SET name = 'American Airlines Inc.'"
    " WHERE carrier = 'DL'; UPDATE airlines SET name = 'Delta Air Lines Inc.' WHERE carrier = 'AA'; COMMIT",
    "UPDATE airports SET lat = -lat / 3, lon = lon * 1e-310, alt = NULL, tz = -tz / 2",
    "UPDATE planes SET year = NULL, speed = seats WHERE engines > 1",
    "DELETE FROM planes WHERE manufacturer LIKE 'B%'",
]


def load_csv(account: Account, table: str, path: Path) -> None:
    """Rows of a compressed file with a head line; NA is NULL."""
    with gzip.open(path, "rt", newline="") as file:
        head = next(csv.reader(file))
        plain = account.server.directory / f"{table}.csv"
        plain.write_text(file.read())
    fields = ", ".join(f"@{name}" for name in head)
    values = ", ".join(
        f"`{name}` = NULLIF(REPLACE(REPLACE(@{name}, 'T', ' '), 'Z', ''), 'NA')"
        if name == "time_hour"
        else f"`{name}` = NULLIF(@{name}, 'NA')"
        for name in head
    )
    write(
        account,
        f"LOAD DATA INFILE '{plain}' INTO TABLE {table} CHARACTER SET utf8mb4 FIELDS TERMINATED BY ','"
        f" OPTIONALLY ENCLOSED BY '\"' ({fields}) SET {values}",
    )
    plain.unlink()


def count(server: Server, account: Account, table: str) -> Any:
    return server.execute(f"SELECT COUNT(*) FROM {account.database}.{table}")[0][0]


def test_flights(
    source_account: Account, target_account: Account, pipeline: PipelineFile, fixtures_dir: Path
) -> None:
    for table, columns in FLIGHTS.items():
        write(source_account, f"CREATE TABLE {table} ({columns}) CHARACTER SET utf8mb4")
        load_csv(source_account, table, fixtures_dir / "nycflights13" / f"{table}.csv.gz")
    assert count(source_account.server, source_account, "flights") == 336_776
    pipeline.must("load", "FILE")
    with mirroring(pipeline):
        for statement in FLIGHT_CHANGES:
            write(source_account, statement)
    assert compare(source_account, target_account) > 300_000
