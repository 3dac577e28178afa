"""What an account may do in one database, from the text of SHOW GRANTS (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

# `GRANT … ON *.* TO`, ``ON `db`.* TO``, ``ON `db`.`table` TO``; roles and PROXY have other forms.
_GRANT: Final = re.compile(
    r"(GRANT|REVOKE) (.+?) ON (?:(\*)|`((?:[^`]|``)+)`)\.(?:(\*)|`(?:[^`]|``)+`) (?:TO|FROM) ", re.DOTALL
)
ALL: Final = "ALL PRIVILEGES"


def privileges_on(grants: Iterable[str], database: str) -> frozenset[str]:
    """The privileges that hold on the whole of ``database``; ``ALL PRIVILEGES`` stands for itself.

    Partial revokes are taken off; grants on single tables or columns do not count.
    """
    held: set[str] = set()
    revoked: set[str] = set()
    for text in grants:
        match = _GRANT.match(text)
        if match is None or not match[5]:
            continue
        if not match[3] and not _matches(match[4].replace("``", "`"), database):
            continue
        names = {name.strip().upper() for name in match[2].split(",")}
        (held if match[1] == "GRANT" else revoked).update(names)
    return frozenset(held - revoked)


def missing(held: frozenset[str], wanted: Iterable[str]) -> list[str]:
    """The privileges of ``wanted`` that ``held`` lacks, in order."""
    return [] if ALL in held else [name for name in wanted if name not in held]


def _matches(pattern: str, database: str) -> bool:
    r"""A database name in a GRANT is a LIKE pattern: ``\_`` is an underscore, ``_`` any character, ``%`` any text."""
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    like = {"_": ".", "%": ".*"}
    regex = "".join(like.get(part) or re.escape(part[-1]) for part in parts)
    return re.fullmatch(regex, database, re.DOTALL) is not None
