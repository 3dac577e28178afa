"""MySQL's binary JSON to JSON text; pure. (skeleton)"""

from __future__ import annotations


def read_json(data: bytes) -> bytes:
    raise ValueError("not yet")
