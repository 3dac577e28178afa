"""The types that every stage shares, from reader to target; this module imports nothing of ours.

Rows are tuples of canonical values by the ordinal of ``TableSchema.columns``: never a dict per row. A canonical value is
``None``, ``int``, ``float`` or ``bytes``; ``Kind`` says which and what the bytes mean. Hot types are NamedTuples, cold
ones frozen dataclasses.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeAlias


class Unchanged(enum.Enum):
    """The source did not send this column's value because it did not change."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED


class Coerced(NamedTuple):
    """What stands for a value that the target's column cannot hold: ``value``, under the column's rule; ``original`` is the
    source's text of it.

    In rows of columns with a rule only, and only from reader to ``coercion``, which counts it.
    """

    value: int | float | bytes | None
    original: bytes


Value: TypeAlias = int | float | bytes | None | Unchanged | Coerced
Row: TypeAlias = tuple[Value, ...]
Key: TypeAlias = tuple[Value, ...]


class Op(enum.IntEnum):
    """What a change does. READ is a row of an initial load."""

    READ = 0
    INSERT = 1
    UPDATE = 2
    DELETE = 3
    TRUNCATE = 4


class Kind(enum.Enum):
    """The canonical form of a column's values; what sql.py needs to know to render one."""

    INTEGER = "integer"  # int
    BIT = "bit"  # int, the bits as an unsigned number
    FLOAT = "float"  # float (a single widened to a double, bit-exact)
    DOUBLE = "double"  # float
    PLAIN = "plain"  # bytes: ASCII text without quote, backslash or control bytes (decimals, temporals, years, UUIDs)
    TEXT = "text"  # bytes in Column.charset
    ENUM = "enum"  # bytes: the label in Column.charset; int 0 is MySQL's "invalid" value (index 0)
    SET = "set"  # bytes: the labels in definition order joined by commas, in Column.charset
    BINARY = "binary"  # bytes
    JSON = "json"  # bytes: JSON text in utf8mb4
    GEOMETRY = "geometry"  # bytes: SRID (4 bytes little-endian) + WKB, MySQL's internal form
    VECTOR = "vector"  # bytes: little-endian float32s


class Unrepresentable(enum.StrEnum):
    """What becomes of a value that the target's column cannot hold exactly (I10).

    FAIL: the run ends, naming it. CLAMP: the nearest value that the column holds. NULL: none.
    """

    FAIL = "fail"
    CLAMP = "clamp"
    NULL = "null"


class TableName(NamedTuple):
    """A source table."""

    schema: str
    table: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is read from the source and written to the target.

    ``charset`` is the MySQL character set in which TEXT, ENUM and SET values' bytes are (None for other kinds);
    ``type`` is the column type at the target (``varchar(32)``, ``bigint unsigned``); ``default`` is SQL text of the
    target (``'new'``, ``CURRENT_TIMESTAMP(3)``, ``(uuid())``) or None; ``source_type`` is the source's own spelling,
    ``base`` the name of the type that tells how its values are converted, where that spelling does not (domains).
    """

    name: str
    kind: Kind
    type: str
    nullable: bool = True
    charset: str | None = None
    collation: str | None = None
    default: str | None = None
    on_update: str | None = None
    auto_increment: bool = False
    invisible: bool = False
    comment: str = ""
    srid: int | None = None
    source_type: str = ""
    labels: tuple[bytes, ...] = ()  # ENUM and SET members in order, in ``charset``
    base: str = ""
    unrepresentable: Unrepresentable = Unrepresentable.FAIL


@dataclass(frozen=True, slots=True)
class GeneratedColumn:
    """A column that each server computes for itself; created, never read or written."""

    name: str
    type: str
    expression: str
    stored: bool
    nullable: bool = True
    charset: str | None = None
    collation: str | None = None
    comment: str = ""
    invisible: bool = False
    after: str | None = None  # the column before it in the source's order, None when it is the first


@dataclass(frozen=True, slots=True)
class IndexPart:
    """One part of an index: a column (perhaps a prefix of it) or an expression."""

    column: str | None
    prefix: int | None = None
    descending: bool = False
    expression: str | None = None


@dataclass(frozen=True, slots=True)
class Index:
    """A secondary or primary index. ``kind``: primary | unique | index | fulltext | spatial."""

    name: str
    kind: str
    parts: tuple[IndexPart, ...]
    comment: str = ""
    invisible: bool = False


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """A unique key of the target as the planner sees it; the name of the table's key is the target's own.

    ``ordinals`` index ``TableSchema.columns``. ``exact`` is False where equality cannot be told from the row alone
    (expressions, generated columns, prefixes): changes that may meet in such a key go through in source order.
    ``deferrable``: at the source it holds where a statement or a transaction ends, not after each row.
    """

    name: str
    ordinals: tuple[int, ...]
    exact: bool = True
    deferrable: bool = False


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key of the source whose parent is named by its source name."""

    name: str
    columns: tuple[str, ...]
    parent: TableName
    parent_columns: tuple[str, ...]
    on_delete: str = "NO ACTION"
    on_update: str = "NO ACTION"

    @property
    def cascades(self) -> bool:
        return bool({self.on_delete, self.on_update} & {"CASCADE", "SET NULL", "SET DEFAULT"})

    @property
    def deletes(self) -> bool:
        """Whether the child's rows go along with their parent's."""
        return self.on_delete == "CASCADE"


@dataclass(frozen=True, slots=True, eq=False)
class TableSchema:
    """A selected table: its mirrored columns, its keys, and what its target is made of. Compared by identity.

    ``key`` holds the ordinals that identify a row: the primary key, else a unique NOT NULL key.
    """

    source: TableName
    target: str
    columns: tuple[Column, ...]
    key: tuple[int, ...]
    unique_keys: tuple[UniqueKey, ...] = ()  # the primary key first, when there is one
    generated: tuple[GeneratedColumn, ...] = ()
    indexes: tuple[Index, ...] = ()  # the primary key included
    foreign_keys: tuple[ForeignKey, ...] = ()
    charset: str = "utf8mb4"
    collation: str = "utf8mb4_0900_ai_ci"
    comment: str = ""
    rows_estimate: int = 0
    bytes_estimate: int = 0
    notes: tuple[str, ...] = ()  # where the target differs, for `plan`: collations, defaults, indexes


class Position(Protocol):
    """A resume point of one named server (I1): a transaction boundary. Immutable; ``str()`` is its stored form.

    Only the reader that made it knows what is inside.
    """

    def covers(self, other: Position) -> bool:
        """Whether everything at or before ``other`` is also at or before this position."""
        ...

    def includes(self, after: Position) -> bool:
        """Whether the one transaction that *ended* at ``after`` (a ``Transaction.position``) is in this position."""
        ...

    def meet(self, other: Position) -> Position:
        """The highest position that both cover (for ``read_from``)."""
        ...


class Changes(NamedTuple):
    """Changes of one table and one op that stand together in the log: one row event, in order.

    INSERT and READ: ``before`` is (), ``after`` the rows. DELETE: ``before`` the rows, ``after`` (). UPDATE: two lists
    of equal length. TRUNCATE: both (), and it counts as one row. ``size`` is bytes of the row images in the log.
    """

    table: TableSchema
    op: Op
    before: Sequence[Row]
    after: Sequence[Row]
    size: int = 0
    no_foreign_key_checks: bool = False

    @property
    def rows(self) -> int:
        return len(self.after) or len(self.before) or 1


class Transaction(NamedTuple):
    """A committed transaction of the source. ``changes`` can be iterated more than once; it may live on disk.

    ``commit_time`` is µs since the epoch in the source's clock (SEMANTICS §1.5). A transaction of unselected tables has
    no changes and still moves the position.
    """

    position: Position
    commit_time: int
    changes: Iterable[Changes]
    rows: int
    size: int
    spilled: bool = False


class SchemaChange(NamedTuple):
    """A barrier in the stream: something happened to ``tables`` that the stream cannot express as rows.

    ``position`` is the resume point after it, ``before`` the one before it; ``reason`` is for a human.
    """

    position: Position
    before: Position
    commit_time: int
    tables: tuple[TableName, ...]
    statement: str
    reason: str


class Idle(NamedTuple):
    """Nothing more is waiting to be read just now. ``position`` covers all that was read."""

    position: Position


class Heartbeat(NamedTuple):
    """The source reported its newest position; ``received`` is our monotonic clock in seconds."""

    position: Position
    received: float


class UnseenCommit(NamedTuple):
    """The source committed what was prepared where we never read: harmless only to tables that have those rows already.

    ``name`` is the transaction's, as XA COMMIT takes it.
    """

    position: Position
    commit_time: int
    name: str


StreamItem: TypeAlias = Transaction | SchemaChange | Idle | Heartbeat | UnseenCommit


class Torn(NamedTuple):
    """How far a huge transaction is applied (SEMANTICS §1.4): its first ``skip`` row changes of these tables.

    They count in the log's order, before anything is filtered or collapsed; changes of other tables do not count.
    """

    skip: int
    tables: frozenset[TableName]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a commit stores beside its rows; there is no commit without one (I2, I3).

    ``torn`` is what is applied already of the transaction after ``position``, None between transactions. ``tables`` moves
    positions of single tables (SEMANTICS §1.2, §2.1); None: the table follows ``position`` from now on.
    """

    position: Position
    read_from: Position
    torn: Torn | None = None
    tables: tuple[tuple[TableName, Position | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """What one target transaction applies: the changes of whole transactions, in source order, and their checkpoint.

    ``truncated``: the one table that it empties, where it does nothing else.
    """

    checkpoint: Checkpoint
    changes: Iterable[Changes]
    transactions: int
    rows: int
    size: int
    oldest_commit: int = 0  # commit time of the first transaction in it, µs, 0 when there is none
    newest_commit: int = 0
    spilled: bool = False
    truncated: TableSchema | None = None
