"""Where the WAL ends, and where timelines part."""

from __future__ import annotations

import pytest

from replicator.readers.lsn import format_lsn, parse_lsn
from replicator.readers.postgres_wal import leave_fresh_page


@pytest.mark.parametrize(
    ("inserted", "written"),
    [
        ("0/4252018", "0/4252000"),  # behind the header of a page
        ("0/4252028", "0/4252028"),  # a record goes on for 16 bytes behind it
        ("0/5000028", "0/5000000"),  # behind the longer header of a segment
        ("0/5000018", "0/5000018"),
        ("0/5001FF8", "0/5001FF8"),
        ("1/0", "1/0"),
    ],
)
def test_a_page_that_was_only_begun_holds_nothing(inserted: str, written: str) -> None:
    assert format_lsn(leave_fresh_page(parse_lsn(inserted), 8192, 16 << 20)) == written
