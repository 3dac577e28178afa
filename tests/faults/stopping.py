"""The replicator that stops once: `stopping.py POINT TIMES COMMAND…` is `dying.py` with SIGSTOP in place of SIGKILL.

Whoever continues it sees a process that was slow just there, while others went on.
"""

from __future__ import annotations

import os
import signal

from tests.faults import dying


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    vars(dying)["_die"] = _stop
    dying.main()
