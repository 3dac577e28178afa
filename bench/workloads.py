"""The workloads: each starts servers of its own, lets the contestants run in turn, and proves that they copied all.

In every round the source's new changes are written once and each contestant applies the same ones; who goes first
changes with the round. After each run the table is compared with the source's by a checksum that the servers compute.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pymysql.constants import CLIENT

from bench import data
from bench.latency import Latencies, measure_latencies
from bench.measure import Run, Usage, build_result, build_run, percentile, read_peak_rss
from bench.mirror import Mirror, measure_load
from bench.peers import BenchFailed, Replica, executed, make_durable, measure_dump, relax
from replicator.servers import Server, start_mysql

DATABASE = "shop"
COPY = "copy"
SEED = 20240229
ROWS_PER_TRANSACTION = 1000
STATEMENTS_PER_PACKET = 200
COMMITS_PER_SECOND = 200.0
NATIVE = "MySQL's own replication, 4 appliers, durable"

# The same on every server; the rest is the server's default. `start_mysql(durable=True)` adds the flushes.
SETTINGS: dict[str, Any] = {"innodb_buffer_pool_size": "512M", "innodb_redo_log_capacity": "1G"}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done: ``runs`` of each contestant, rows and transactions of each."""

    runs: int
    backlog_rows: int
    base_rows: int
    backlog_transactions: int
    native_transactions: int
    load_rows: int
    latency_seconds: float


FULL = Scale(3, 500_000, 300_000, 40_000, 10_000, 500_000, 15.0)
QUICK = Scale(1, 20_000, 10_000, 2_000, 1_000, 20_000, 2.0)


class Place:
    """The servers of one workload: a source with the orders table, and its contestants."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.source = self._start()
        self.target = self._start()
        self.orders = data.Orders(SEED)
        self.source.execute([f"CREATE DATABASE {DATABASE}", f"USE {DATABASE}", data.CREATE_TABLE])
        self.mirror = Mirror(self.source, self.target, DATABASE)

    def _start(self) -> Server:
        return self._stack.enter_context(start_mysql(durable=True, **SETTINGS))

    def add_replica(self) -> Replica:
        """Start the server of native replication, level with the source."""
        replica = Replica(self.source, self._start())
        replica.catch_up()
        return replica

    def fill(self, rows: int) -> None:
        self.write(self.orders.insert_statements(rows, ROWS_PER_TRANSACTION), per_packet=1)

    def write(self, statements: Iterator[str], *, per_packet: int) -> None:
        """Write to the source, each statement a transaction: quickly, then flushed and durable again."""
        texts = list(statements)
        relax(self.source)
        with (
            self.source.connect(database=DATABASE, client_flag=CLIENT.MULTI_STATEMENTS) as connection,
            connection.cursor() as cursor,
        ):
            for first in range(0, len(texts), per_packet):
                cursor.execute(";".join(texts[first : first + per_packet]))
                while cursor.nextset():
                    pass
        make_durable(self.source)

    def compare(self, server: Server, database: str = DATABASE) -> None:
        """Fail unless the copy holds exactly the source's rows."""
        ours, theirs = (_checksum(self.source, DATABASE), _checksum(server, database))
        if ours != theirs:
            raise BenchFailed(
                f"source and copy differ: count and checksums {ours} at the source, {theirs} at the copy"
            )


def _checksum(server: Server, database: str) -> tuple[Any, ...]:
    return server.execute(["SET time_zone = '+00:00'", data.CHECKSUM], database=database)[0]


@contextlib.contextmanager
def open_place() -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        yield Place(stack)


def alternate(number: int, contestants: Sequence[Callable[[], None]]) -> None:
    """Let each do its run; the order turns with the round's ``number``."""
    for contestant in contestants if number % 2 == 0 else reversed(contestants):
        contestant()


def measure_inserts(scale: Scale) -> dict[str, Any]:
    """A backlog of inserts in transactions of 1,000 rows."""
    ours: list[Run] = []
    theirs: list[Run] = []
    size = {"rows": scale.backlog_rows, "transactions": scale.backlog_rows // ROWS_PER_TRANSACTION}
    with open_place() as place:
        replica = place.add_replica()
        place.mirror.load()

        def mirror() -> None:
            ours.append(place.mirror.measure(**size))
            place.compare(place.target)

        def replicate() -> None:
            theirs.append(replica.measure(executed(place.source), **size))
            place.compare(replica.server)

        for number in range(scale.runs):
            place.fill(scale.backlog_rows)
            alternate(number, [mirror, replicate])
    return build_result("inserts", ours, NATIVE, theirs)


def measure_oltp(scale: Scale) -> dict[str, Any]:
    """A backlog of one-row transactions, 60 % update, 20 % insert, 20 % delete, over a filled table.

    Native replication applies the first part of it durably, which gives the ratio, and the rest with relaxed flushing.
    """
    ours: list[Run] = []
    durable: list[Run] = []
    relaxed: list[Run] = []
    count = scale.backlog_transactions
    with open_place() as place:
        replica = place.add_replica()
        place.fill(scale.base_rows)
        replica.catch_up()
        place.mirror.load()

        def mirror() -> None:
            ours.append(place.mirror.measure(rows=count, transactions=count))
            place.compare(place.target)

        def replicate() -> None:
            _replicate_in_parts(place, replica, scale, durable, relaxed)
            place.compare(replica.server)

        for number in range(scale.runs):
            place.write(place.orders.mixed_statements(count), per_packet=STATEMENTS_PER_PACKET)
            alternate(number, [mirror, replicate])
    result = build_result("oltp", ours, NATIVE, durable)
    result["peer_transactions"] = scale.native_transactions
    loose = statistics.median(run.rate for run in relaxed)
    result["relaxed_peer_rows_per_second"] = round(loose)
    result["relaxed_ratio"] = round(statistics.median(run.rate for run in ours) / loose, 2)
    return result


def _replicate_in_parts(
    place: Place, replica: Replica, scale: Scale, durable: list[Run], relaxed: list[Run]
) -> None:
    """STOP REPLICA may let a few more commit than the part asked for: what the rest holds is counted, not assumed."""
    server, uuid = replica.server, place.source.uuid
    first = scale.native_transactions
    before = read_last_number(executed(server), uuid)
    durable.append(replica.measure(f"{uuid}:1-{before + first}", rows=first, transactions=first))
    rest = scale.backlog_transactions - (read_last_number(executed(server), uuid) - before)
    relax(server)
    relaxed.append(replica.measure(executed(place.source), rows=rest, transactions=rest))
    make_durable(server)


def read_last_number(gtids: str, uuid: str) -> int:
    """The number of the last transaction of server ``uuid`` in a GTID set that has no gaps; 0 when it has none."""
    for part in gtids.replace("\n", "").split(","):
        name, _, numbers = part.strip().partition(":")
        if name == uuid:
            return int(numbers.split("-")[-1])
    return 0


def measure_load_workload(scale: Scale) -> dict[str, Any]:
    """Initial load of one table into an empty database; both contestants are timed from command to command's end."""
    ours: list[Run] = []
    theirs: list[Run] = []
    rows = scale.load_rows
    with open_place() as place:
        place.fill(rows)

        def mirror() -> None:
            place.mirror.reset()
            ours.append(measure_load(place.mirror, rows))
            place.compare(place.target)

        def dump() -> None:
            place.target.execute(f"DROP DATABASE IF EXISTS {COPY}; CREATE DATABASE {COPY}")
            theirs.append(measure_dump(place.source, DATABASE, place.target, COPY, rows))
            place.compare(place.target, COPY)

        for number in range(scale.runs):
            alternate(number, [mirror, dump])
    result = build_result("load", ours, "mysqldump | mysql", theirs)
    net = statistics.median(rows / (run.seconds - run.extra["start_up_seconds"]) for run in ours)
    result["ratio_without_start_up"] = round(net / statistics.median(run.rate for run in theirs), 2)
    return result


def measure_latency(scale: Scale) -> dict[str, Any]:
    """One-row commits at a steady rate, mirrored as they come: from COMMIT's answer to being visible at the target."""
    ours: list[tuple[Run, Latencies]] = []
    theirs: list[tuple[Run, Latencies]] = []
    count = int(scale.latency_seconds * COMMITS_PER_SECOND)
    with open_place() as place:
        replica = place.add_replica()
        place.fill(ROWS_PER_TRANSACTION)
        place.mirror.load()

        def watch(server: Server, pids: dict[str, int], peak_rss: Callable[[], int]) -> tuple[Run, Latencies]:
            statements = list(place.orders.insert_statements(count, 1))
            before = Usage.read(pids)
            seen = measure_latencies(place.source, server, DATABASE, statements, COMMITS_PER_SECOND)
            after = Usage.read(pids)
            size: dict[str, Any] = {"rows": count, "transactions": count, "peak_rss": peak_rss()}
            return build_run(before, after, **size, extra=describe_latencies(seen)), seen

        def mirror() -> None:
            with place.mirror.running() as pids:
                ours.append(watch(place.target, pids, lambda: read_peak_rss(pids["replicator"])))
            place.compare(place.target)

        def replicate() -> None:
            pids = {"source": place.source.pid, "target": replica.server.pid}
            with replica.running():
                theirs.append(watch(replica.server, pids, lambda: 0))
            place.compare(replica.server)

        for number in range(scale.runs):
            alternate(number, [mirror, replicate])
    return build_latency_result(ours, theirs)


def build_latency_result(
    ours: Sequence[tuple[Run, Latencies]], theirs: Sequence[tuple[Run, Latencies]]
) -> dict[str, Any]:
    """Here `ratio` is the peer's median latency to ours: above 1, rows are visible here sooner."""
    result = build_result("latency", [run for run, _ in ours], NATIVE, [run for run, _ in theirs])
    mine, peers = (_describe_all([seen for _, seen in side]) for side in (ours, theirs))
    medians = [run.extra["median_ms"] for run, _ in ours]
    return result | {
        "latency_ms": mine,
        "peer_latency_ms": peers,
        "ratio": round(peers["median"] / mine["median"], 2),
        "spread": round((max(medians) - min(medians)) / mine["median"], 3),
    }


def _describe_all(seen: Sequence[Latencies]) -> dict[str, float]:
    """The median of the runs' medians and 99th percentiles, and the worst of all."""
    each = [describe_latencies(one) for one in seen]
    return {
        "median": statistics.median(one["median_ms"] for one in each),
        "p99": statistics.median(one["p99_ms"] for one in each),
        "max": max(one["max_ms"] for one in each),
    }


def describe_latencies(seen: Latencies) -> dict[str, float]:
    milliseconds = [second * 1000 for second in seen.seconds]
    return {
        "median_ms": round(statistics.median(milliseconds), 2),
        "p99_ms": round(percentile(milliseconds, 0.99), 2),
        "max_ms": round(max(milliseconds), 2),
        "commits_per_second": round(seen.commits_per_second, 1),
    }


WORKLOADS: dict[str, Callable[[Scale], dict[str, Any]]] = {
    "inserts": measure_inserts,
    "oltp": measure_oltp,
    "load": measure_load_workload,
    "latency": measure_latency,
}
