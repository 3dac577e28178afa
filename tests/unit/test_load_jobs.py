"""The work that load workers share: every range once, every table completed once, none of a lost table (pure)."""

from __future__ import annotations

import threading
from collections import Counter

from replicator.config import ExistingRows
from replicator.load.jobs import Copy, Job, Jobs, count_chunk_rows
from replicator.model import Column, Kind, TableName, TableSchema
from replicator.readers.base import KeyRange
from replicator.tablestate import Found


def make_table(name: str, rows: int = 0, size: int = 0) -> TableSchema:
    columns = (Column("id", Kind.INTEGER, "int", nullable=False),)
    return TableSchema(TableName("shop", name), name, columns, (0,), rows_estimate=rows, bytes_estimate=size)


def make_copies(number: int) -> list[Copy]:
    return [Copy(make_table(f"t{i}"), Found.MISSING, ExistingRows.REFUSE) for i in range(number)]


def take(jobs: Jobs) -> Job:
    job = jobs.take(threading.Event())
    assert job is not None
    return job


def test_workers_share_all_ranges_and_complete_each_table_once() -> None:
    copies = make_copies(7)
    jobs = Jobs(copies)
    done: Counter[tuple[str, int]] = Counter()
    completed: Counter[str] = Counter()
    lock = threading.Lock()

    def work() -> None:
        while (job := jobs.take(threading.Event())) is not None:
            if job.span is None:
                jobs.add(job.copy, [KeyRange((i,), (i + 1,)) for i in range(50)])
            with lock:
                done[job.copy.table.target, job.number] += 1
            if jobs.finish(job.copy):
                with lock:
                    completed[job.copy.table.target] += 1
                jobs.finish(job.copy)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 7 * 51
    assert set(done.values()) == {1}
    assert completed == Counter({copy.table.target: 1 for copy in copies})


def test_two_workers_that_end_together_leave_one_to_complete_the_table() -> None:
    [copy] = make_copies(1)
    jobs = Jobs([copy])
    begin = take(jobs)
    jobs.add(copy, [KeyRange(None, (1,)), KeyRange((1,), None)])
    assert jobs.finish(begin.copy) is False
    first, second = take(jobs), take(jobs)
    assert [jobs.finish(first.copy), jobs.finish(second.copy)] == [False, True]


def test_lost_table_gets_no_more_work_and_is_not_completed() -> None:
    [copy] = make_copies(1)
    jobs = Jobs([copy])
    take(jobs)
    jobs.add(copy, [KeyRange(None, (1,)), KeyRange((1,), (2,)), KeyRange((2,), None)])
    jobs.finish(copy)
    take(jobs)
    take(jobs)
    assert jobs.finish(copy, lost=True) is False
    assert jobs.finish(copy) is False
    assert jobs.take(threading.Event()) is None


def test_stop_ends_the_wait_for_work() -> None:
    [copy] = make_copies(1)
    jobs = Jobs([copy])
    take(jobs)
    stop = threading.Event()
    stop.set()
    assert jobs.take(stop) is None


def test_chunk_of_wide_rows_has_fewer_of_them() -> None:
    assert count_chunk_rows(make_table("new")) == 50_000
    assert count_chunk_rows(make_table("narrow", rows=10**6, size=10**8)) == 50_000
    assert count_chunk_rows(make_table("wide", rows=1000, size=32 << 20)) == 500
    assert count_chunk_rows(make_table("huge", rows=10, size=1 << 40)) == 100
