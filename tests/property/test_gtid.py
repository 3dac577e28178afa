"""GTID sets and positions against the plainest model there is: a set of (key, number) pairs."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.readers.gtid import FilePosition, GtidPosition, GtidSet, MariadbPosition, parse_position

SIDS = [f"3e11fa47-71ca-11e1-9e33-c80aa942956{n}" for n in range(3)]
KEYS = [*SIDS, f"{SIDS[0]}:blue", f"{SIDS[0]}:red", f"{SIDS[2]}:blue"]

Model = set[tuple[str, int]]

gtids = st.tuples(st.sampled_from(KEYS), st.integers(1, 12))
models = st.sets(gtids, max_size=30)


def build(model: Model) -> GtidSet:
    found = GtidSet()
    for key, number in model:
        found = found.add(key, number, number)
    return found


def list_gtids(found: GtidSet) -> Model:
    return {
        (key, number)
        for key, intervals in found.sources.items()
        for low, high in intervals
        for number in range(low, high + 1)
    }


@settings(max_examples=300, deadline=None)
@given(models, models)
def test_sets_behave_as_sets(a: Model, b: Model) -> None:
    one, two = build(a), build(b)
    assert list_gtids(one) == a
    assert one.count() == len(a)
    assert list_gtids(one.union(two)) == a | b
    assert list_gtids(one.subtract(two)) == a - b
    assert list_gtids(one.intersection(two)) == a & b
    assert one.covers(two) == (a >= b)
    assert all(one.contains(key, n) == ((key, n) in a) for key in KEYS for n in range(1, 13))
    assert GtidSet.parse(str(one)) == one
    for intervals in one.sources.values():
        assert all(high + 1 < low for (_, high), (low, _) in itertools.pairwise(intervals))


@settings(max_examples=300, deadline=None)
@given(models, st.lists(gtids, max_size=30), models)
def test_positions_hold_what_was_added(base: Model, steps: list[tuple[str, int]], other: Model) -> None:
    server = "mysql:x"
    position, model = GtidPosition(server, build(base)), set(base)
    for step in steps:
        if step in model:
            continue
        position = position.after(*step)
        model.add(step)
    whole = GtidPosition(server, build(other))
    assert list_gtids(position.gtids) == model
    assert position.covers(whole) == (model >= other)
    assert whole.covers(position) == (other >= model)
    assert list_gtids(position.meet(whole).gtids) == model & other
    assert parse_position(str(position)) == position
    if position.key:
        assert whole.includes(position) == ((position.key, position.last) in other)
        assert position.includes(position)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(1, 9)), max_size=20), st.data())
def test_mariadb_positions_are_maps_of_domains(
    steps: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    made, models = [MariadbPosition.of("m", "")], [dict[int, int]()]
    for domain, server, by in steps:
        sequence = models[-1].get(domain, 0) + by
        made.append(made[-1].after(domain, server, sequence))
        models.append({**models[-1], domain: sequence})
    i, j = (data.draw(st.integers(0, len(made) - 1)) for _ in range(2))
    covers = all(models[i].get(domain, 0) >= sequence for domain, sequence in models[j].items())
    assert made[i].covers(made[j]) == covers
    assert parse_position(str(made[i])) == made[i]
    if j:
        assert made[i].includes(made[j]) == (i >= j)
    meet = made[i].meet(made[j])
    assert {d: s for d, (_, s) in meet.domains.items()} == models[min(i, j)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=20), st.data())
def test_file_positions_are_in_the_order_of_the_log(sizes: list[int], data: st.DataObject) -> None:
    made = [
        FilePosition("s", f"b.{number:06}", 1000 + number // 2, offset)
        for number, size in enumerate(sizes, start=1)
        for offset in (4, 4 + size)
    ]
    i, j = (data.draw(st.integers(0, len(made) - 1)) for _ in range(2))
    assert made[i].covers(made[j]) == (i >= j)
    assert made[i].meet(made[j]) == made[min(i, j)]
