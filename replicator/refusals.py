"""What the target's refusals mean: the one table from error numbers and SQLSTATEs to the classes of ``errors``.

Beside ``session``, which raises what this module builds. An outage (SEMANTICS §8) is waited for, a retry is sent again,
data errors name a table, and a number that stands nowhere here stops the program with that number.
"""

from __future__ import annotations

import re
from typing import NamedTuple, NoReturn

import pymysql

from replicator.errors import (
    CheckRefused,
    DataError,
    DuplicateKey,
    TargetError,
    TargetRetry,
    TargetUnavailable,
)

_GRANTED = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES, CREATE TEMPORARY TABLES"

NO_SUCH_THREAD = 1094
NO_SUCH_TABLE = 1146
LOCK_WAIT_TIMEOUT = 1205
REFERRED_TO = 1701
"""TRUNCATE of a table that a foreign key refers to."""

_OUTAGES = frozenset(
    (
        *(2002, 2003, 2005, 2006, 2013, 2055),  # the client's: cannot connect, unresolved, gone, lost
        *(1040, 1203, 1226),  # too many connections, or more than the account may have just now
        *(1053, 1077, 1927, 3169, 4031),  # shutting down, killed, silent for too long
        *(1158, 1159, 1160, 1161, 1184),  # the server lost us in mid-packet
        *(1290, 1792, 1836, 3100, 3101),  # read-only, failing over
    )
)
_FULL = frozenset((3, 20, 1021, 1114))
_WRITE_FAILED = frozenset((1026, 1030))  # of which a full disk (errno 28) is one reason
_RETRIES = frozenset(
    (1205, 1213, 1317, 3572, 3058)
)  # lock time-out, deadlock, interrupted, NOWAIT, user lock deadlock
_DUPLICATES = frozenset((1062, 1586))
_DATA = frozenset((1265, 1366, 3819))  # truncated, of the wrong type, a CHECK: their SQLSTATE does not say so
_CHECK = 1242
_DENIED = frozenset((1044, 1142, 1143, 1227, 1370))
_TOO_FAR = (
    "the source ran a cascade that reaches further than this target allows one statement: `drop` the pipeline, then load"
    " anew; a target that is started with innodb_native_foreign_keys=ON allows it"
)
_HINTS = {
    1045: "check target.user and target.password, and that the account may come from this host",
    1049: "create the database, or correct target.database",
    1129: "run `TRUNCATE TABLE performance_schema.host_cache` at the target: it counts failed connects from this host",
    1130: "create the account for this host, or with host '%'",
    1153: "a row is larger than the target's max_allowed_packet; raise it there",
    1665: "the target's binlog_format must be ROW",
    1698: "check target.user and its authentication plugin",
    2026: "check target.tls; the server may offer no TLS",
    2059: "this authentication plugin needs TLS or is not supported",
    3024: "raise max_execution_time at the target",
    3008: _TOO_FAR,
    3159: "the target demands TLS; set target.tls.mode to required",
    3750: "a table without a primary key cannot be made at this target",
    3948: "local_infile is off at the target",
    6575: _TOO_FAR,
}


class Grantee(NamedTuple):
    """Whom a GRANT is for: the account in GRANT's spelling, and the database of its session."""

    account: str
    database: str


def raise_classified(
    error: pymysql.MySQLError, index: int, prefix: str = "", grantee: Grantee | None = None
) -> NoReturn:
    raise classify(error, index, prefix, grantee) from None


def classify(
    error: pymysql.MySQLError, index: int = 0, prefix: str = "", grantee: Grantee | None = None
) -> TargetError:
    """The error of our tree for one of PyMySQL's, by its number first and its SQLSTATE second."""
    number, text = _parts(error)
    sqlstate = getattr(error, "sqlstate", None) or ""
    message = f"{prefix}{text} (error {number}{', ' + sqlstate if sqlstate else ''})"
    found = _build_error(number, sqlstate, message, text, grantee)
    found.errno, found.sqlstate, found.result_index = number, sqlstate, index
    return found


def _parts(error: pymysql.MySQLError) -> tuple[int, str]:
    if isinstance(error, pymysql.err.InterfaceError) or not error.args or not isinstance(error.args[0], int):
        return 2006, str(error.args[-1] if error.args else "") or "the connection is closed"
    return error.args[0], str(error.args[1]) if len(error.args) > 1 else str(error)


def _build_error(number: int, sqlstate: str, message: str, text: str, grantee: Grantee | None) -> TargetError:
    if number in _OUTAGES:
        return TargetUnavailable(message)
    if number in _FULL or (number in _WRITE_FAILED and "No space left" in text):
        return TargetUnavailable(
            f"out of room: {message}",
            hint="free some at the target, or give it more; a run waits and goes on",
        )
    if number in _RETRIES:
        return TargetRetry(message)
    if number in _DUPLICATES:
        return DuplicateKey(message, table=_table_of(text))
    if number == _CHECK:
        return CheckRefused(message)
    if number in _DENIED:
        return TargetError(message, hint=_grant_for(text, grantee))
    if number in _DATA or sqlstate[:2] in ("22", "23"):
        return DataError(message, table=_table_of(text))
    return TargetError(message, hint=_HINTS.get(number, ""))


def _table_of(text: str) -> str:
    """The table that a duplicate-key or foreign-key message names, "" where it names none."""
    match = re.search(r"for key '([^'.]+)\.", text) or re.search(r"fails \(`[^`]*`\.`((?:[^`]|``)+)`", text)
    return match[1] if match else ""


def _grant_for(text: str, grantee: Grantee | None) -> str:
    """The GRANT that a denial asks for, as far as its message tells: that names the client's host, not the account's."""
    user = re.search(r"user '((?:[^']|'')*)'@", text)
    who = grantee.account if grantee else f"'{user[1]}'@'%'" if user else ""
    dynamic = re.search(r"at least one of\) the ([A-Z_ ]+?) privilege", text, re.IGNORECASE)
    command = re.match(r"([A-Z][A-Z, ]*?) command denied", text)
    database = re.search(r"to database '([^']*)'", text) or re.search(r"for table '`?([^'`.]+)`?\.", text)
    where = database[1] if database else grantee.database if grantee else ""
    if not who or not (where or dynamic):
        return "`replicator check` prints the GRANT that is missing"
    if dynamic:
        return f"run at the target: GRANT {dynamic[1].split(' or ')[-1]} ON *.* TO {who};"
    return f"run at the target: GRANT {command[1] if command else _GRANTED} ON `{where}`.* TO {who};"
