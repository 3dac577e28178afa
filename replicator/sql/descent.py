"""Statements that do, before a delete, what it does to other rows where foreign keys form a circle (pure).

A plan first only checks that there are no such rows. Where there are some, each statement finds them anew, at the target,
by the indices of the foreign keys. First those that are to refer to nothing are loosened; then rows are deleted by level.
One that is found on several ways has several levels, and goes at the deepest: its own children, a level deeper each, are
gone by then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from replicator.model import TableSchema
from replicator.plan.descent import Descent, Link
from replicator.sql.names import force_index, on_key, quote_name

_FOUND: Final = b"_replicator_descent"


class Part(NamedTuple):
    """One statement of a descent, and the table that it writes to."""

    sql: bytes
    table: TableSchema


def build_descent(descent: Descent, roots: Sequence[bytes]) -> Iterator[Part]:
    """The statements to be run before the DELETE of the rows under ``roots``, keys of the first table as literals."""
    for link in descent.links:
        if _find_nullable(descent, link) and (not link.key.deletes or link.child == 0):
            yield _build_loosening(descent, link, roots)
    for level in range(descent.levels, 0, -1):
        found = _build_found(descent, roots, level)
        for place in descent.circular:
            table = descent.tables[place]
            sql = b"%b DELETE c FROM %b AS d STRAIGHT_JOIN %b AS c%b ON %b WHERE d.t=%d AND d.l=%d" % (
                *(
                    found,
                    _FOUND,
                    quote_name(table.target),
                    force_index(table),
                    _join_found(place, table, b"c"),
                ),
                *(place, level),
            )
            yield Part(sql, table)


def build_descent_check(descent: Descent, roots: Sequence[bytes]) -> bytes:
    """The DO that is refused where any row of these tables refers to ``roots``."""
    found = [
        b"EXISTS(SELECT /*+ INDEX(c) */ 1 FROM %b STRAIGHT_JOIN %b AS c ON %b)"
        % (
            *(_join_roots(descent.tables[0], b"p", roots), quote_name(descent.tables[link.child].target)),
            _refer(link),
        )
        for link in descent.links
        if link.parent == 0
    ]
    return b"DO IF(" + b" OR ".join(found) + b",(SELECT 1 UNION ALL SELECT 2),0)"


def build_clearing(descent: Descent) -> bytes | None:
    """The UPDATE after which no row of the first table refers to another one of it, where its columns take NULL."""
    names: dict[str, None] = {}
    for link in descent.links:
        if link.parent == link.child == 0:
            names |= dict.fromkeys(_find_nullable(descent, link))
    if not names:
        return None
    assignments = b",".join(quote_name(name) + b"=NULL" for name in names)
    return b"UPDATE " + quote_name(descent.tables[0].target) + b" SET " + assignments


def _build_loosening(descent: Descent, link: Link, roots: Sequence[bytes]) -> Part:
    """Let rows refer to nothing: all that the key sets to NULL; of one that deletes, the roots, or a circle of rows would
    lead back to them."""
    child = descent.tables[link.child]
    assignments = [b"c." + quote_name(name) + b"=NULL" for name in _find_nullable(descent, link)]
    # A column that follows every update stays as it is when a foreign key does it (SEMANTICS §5.5).
    follows = [quote_name(column.name) for column in child.columns if column.on_update]
    assignments += [b"c.%b=c.%b" % (name, name) for name in follows]
    sql = b"%b UPDATE /*+ INDEX(c) */ %b SET %b WHERE d.t=%d" % (
        *(_build_found(descent, roots, descent.levels), _join_children(descent, link)),
        *(b",".join(assignments), link.parent),
    )
    return Part(sql + b" AND " + _is_root(child, roots) if link.key.deletes else sql, child)


def _find_nullable(descent: Descent, link: Link) -> list[str]:
    wanted = {name.lower() for name in link.key.columns}
    columns = descent.tables[link.child].columns
    return [column.name for column in columns if column.nullable and column.name.lower() in wanted]


def _build_found(descent: Descent, roots: Sequence[bytes], levels: int) -> bytes:
    """The rows below ``roots``: the place of the table, the level, and the key among the columns of that table."""
    columns = [
        b"k%d_%d" % (place, number)
        for place, table in enumerate(descent.tables)
        for number in range(len(table.key))
    ]
    members = [_build_roots(descent, roots)]
    # Rows that are none: what they select tells the types of the columns.
    members += [_build_none(descent, place) for place in range(1, len(descent.tables))]
    members += [_build_step(descent, link, roots, levels) for link in descent.links if link.key.deletes]
    return b"WITH RECURSIVE %b (t,l,%b) AS (%b)" % (
        *(_FOUND, b",".join(columns)),
        b" UNION DISTINCT ".join(members),
    )


def _build_roots(descent: Descent, roots: Sequence[bytes]) -> bytes:
    return b"SELECT 0,0,%b FROM %b" % (_select_key(descent, 0), _join_roots(descent.tables[0], b"c", roots))


def _build_none(descent: Descent, place: int) -> bytes:
    target = quote_name(descent.tables[place].target)
    return b"SELECT %d,0,%b FROM %b AS c WHERE FALSE" % (place, _select_key(descent, place), target)


def _build_step(descent: Descent, link: Link, roots: Sequence[bytes], levels: int) -> bytes:
    """From the rows found last to those that refer to them, never back to a root."""
    sql = b"SELECT /*+ INDEX(c) */ %d,d.l+1,%b FROM %b WHERE d.t=%d AND d.l<%d" % (
        *(link.child, _select_key(descent, link.child), _join_children(descent, link)),
        *(link.parent, levels),
    )
    return sql + b" AND NOT " + _is_root(descent.tables[0], roots) if link.child == 0 else sql


def _join_children(descent: Descent, link: Link) -> bytes:
    """The rows found as ``d``, the same in their table as ``p``, and those that refer to them by this key as ``c``."""
    parent, child = descent.tables[link.parent], descent.tables[link.child]
    return b"%b AS d STRAIGHT_JOIN %b AS p%b ON %b STRAIGHT_JOIN %b AS c ON %b" % (
        *(_FOUND, quote_name(parent.target), force_index(parent), _join_found(link.parent, parent, b"p")),
        *(quote_name(child.target), _refer(link)),
    )


def _refer(link: Link) -> bytes:
    return b" AND ".join(
        b"c.%b=p.%b" % (quote_name(name), quote_name(parent_name))
        for name, parent_name in zip(link.key.columns, link.key.parent_columns, strict=True)
    )


def _select_key(descent: Descent, place: int) -> bytes:
    """The key of row ``c`` in its own columns, NULL in those of other tables."""
    return b",".join(
        b"c." + quote_name(table.columns[at].name) if at_place == place else b"NULL"
        for at_place, table in enumerate(descent.tables)
        for at in table.key
    )


def _join_found(place: int, table: TableSchema, alias: bytes) -> bytes:
    return b" AND ".join(
        b"%b.%b=d.k%d_%d" % (alias, quote_name(table.columns[at].name), place, number)
        for number, at in enumerate(table.key)
    )


def _join_roots(table: TableSchema, alias: bytes, roots: Sequence[bytes]) -> bytes:
    """The rows under ``roots``, each by the index: a list of keys is compared with every row where those are few."""
    names = b",".join(b"o%d" % number for number in range(len(table.key)))
    return b"(VALUES ROW(%b)) AS n(%b) STRAIGHT_JOIN %b AS %b%b ON %b" % (
        *(b"),ROW(".join(roots), names, quote_name(table.target), alias, force_index(table)),
        on_key(table, b"n.o", alias),
    )


def _is_root(table: TableSchema, roots: Sequence[bytes]) -> bytes:
    names = b",".join(b"c." + quote_name(table.columns[at].name) for at in table.key)
    if len(table.key) == 1:
        return b"(" + names + b" IN (" + b",".join(roots) + b"))"
    return b"((" + names + b") IN ((" + b"),(".join(roots) + b")))"
