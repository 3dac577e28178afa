"""Random documents: exactly the numbers that another reader would show differently are found, at their own paths (I10)."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.jsonnumber import find_fragile, format_double, is_fragile

DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, places=3).map(lambda n: f"{abs(n):f}")
DECIMALS |= st.from_regex(r"-?(0|[1-9][0-9]{0,24})\.[0-9]{1,20}", fullmatch=True)
INTEGERS = st.from_regex(r"-?[1-9][0-9]{0,24}", fullmatch=True)
DOUBLES = st.floats(allow_nan=False, allow_infinity=False).map(lambda n: format_double(n).decode())
TEXTS = st.text(st.sampled_from(list(' ,:.[]{}"\\150é\n')), max_size=12)
VALUES = st.recursive(
    (DECIMALS | INTEGERS | DOUBLES).map(lambda n: ("number", n))
    | TEXTS.map(lambda t: ("other", json.dumps(t, ensure_ascii=False)))
    | st.sampled_from([("other", "null"), ("other", "true")]),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda v: ("array", v))
        | st.dictionaries(TEXTS, inner, max_size=4).map(lambda v: ("object", v))
    ),
    max_leaves=12,
)


def render(value: Any) -> str:
    kind, content = value
    if kind == "array":
        return f"[{', '.join(map(render, content))}]"
    if kind == "object":
        members = (f"{json.dumps(k, ensure_ascii=False)}: {render(v)}" for k, v in content.items())
        return f"{{{', '.join(members)}}}"
    return str(content)


def walk(value: Any, path: str) -> list[tuple[bytes, bytes]]:
    """The numbers that change, found in the tree, not in the text."""
    kind, content = value
    if kind == "array":
        return [found for at, v in enumerate(content) for found in walk(v, f"{path}[{at}]")]
    if kind == "object":
        return [
            found
            for key, v in content.items()
            for found in walk(v, f"{path}.{json.dumps(key, ensure_ascii=False)}")
        ]
    if kind == "other":
        return []
    number = content.encode()
    return [] if number == read_again(content) else [(path.encode(), number)]


def read_again(number: str) -> bytes:
    if "." not in number and "e" not in number and -(2**63) <= int(number) < 2**64:
        return str(int(number)).encode()
    return format_double(float(number))


@settings(max_examples=400, deadline=None)
@given(VALUES)
def test_every_number_that_changes_is_found_at_its_path(value: Any) -> None:
    text = render(value).encode()
    wanted = walk(value, "$")
    assert [tuple(place) for place in find_fragile(text)] == wanted
    assert is_fragile(text) or not wanted
