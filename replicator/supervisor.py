"""The process that owns one throwaway server and its directory, and outlives its parent to remove both.

`servers.py` starts this file as a script, before there is anything to clean up. Commands come as JSON lines on
standard input and are answered one line each on standard output. When the input ends or the parent is gone, by
whatever death, the server is killed and the directory removed. The server in turn dies with this process
(PR_SET_PDEATHSIG, which follows the thread that forked: there is only one here). It stands in a session of its
own: Ctrl-C does not reach it.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Ask the kernel to send the calling process a signal when the one that started it dies."""
    _libc.prctl(PR_SET_PDEATHSIG, number)


class Supervisor:
    """One directory and at most one running server in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.child: subprocess.Popen[bytes] | None = None

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command; ``code`` in an answer is a process's exit code, None while it runs."""
        match command:
            case {"do": "copy", "from": source, "to": target}:
                return {"code": self.run(["cp", "-a", "--reflink=auto", source, target])}
            case {"do": "start", "command": argv, "log": log, "input": script}:
                return {"pid": self.start(argv, Path(log), Path(script))}
            case {"do": "wait"}:
                return {"code": self.child.wait() if self.child else 0}
            case {"do": "poll"}:
                return {"code": self.child.poll() if self.child else 0}
            case {"do": "end", "signal": number, "seconds": seconds}:
                return {"code": self.end(number, seconds)}
            case _:
                return {"error": f"unknown command {command}"}

    def run(self, argv: list[str]) -> int:
        return subprocess.run(
            argv, check=False, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent
        ).returncode

    def start(self, argv: list[str], log: Path, script: Path) -> int:
        self.end(signal.SIGKILL, None)
        with log.open("ab") as output, script.open("rb") as given:
            self.child = subprocess.Popen(
                argv,
                cwd=self.directory,
                stdin=given,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509  (one thread here)
            )
        return self.child.pid

    def end(self, number: int, seconds: float | None) -> int:
        """Signal the server and wait for its end; killed after ``seconds``, where given."""
        if self.child is None:
            return 0
        if self.child.poll() is None:
            self.child.send_signal(number)
            try:
                self.child.wait(seconds)
            except subprocess.TimeoutExpired:
                self.child.kill()
        return self.child.wait()

    def clean(self) -> None:
        self.end(signal.SIGKILL, None)
        shutil.rmtree(self.directory, ignore_errors=True)


def read_commands(parent: int) -> Iterator[dict[str, Any]]:
    """Yield commands until the input ends or the process ``parent`` does.

    The second matters where a forked child of the parent still holds the pipe's other end.
    """
    watch = select.poll()
    watch.register(0, select.POLLIN)
    watch.register(os.pidfd_open(parent), select.POLLIN)
    pending = b""
    while not any(fd != 0 for fd, _ in watch.poll()):
        data = os.read(0, 65536)
        if not data:
            return
        *lines, pending = (pending + data).split(b"\n")
        yield from (json.loads(line) for line in lines)


def main(parent: int, prefix: str, folder: str | None) -> None:
    """Make a directory (named after ``prefix``, in ``folder``), say its path, obey until the parent is gone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    supervisor = Supervisor(Path(tempfile.mkdtemp(prefix=prefix, dir=folder)))
    try:
        _reply({"directory": str(supervisor.directory)})
        for command in read_commands(parent):
            _reply(supervisor.answer(command))
    except (BrokenPipeError, ProcessLookupError):
        return  # the parent went away before it read the answer
    finally:
        supervisor.clean()


def _reply(answer: dict[str, Any]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3] or None)
