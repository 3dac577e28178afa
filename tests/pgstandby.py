"""Standbys of throwaway PostgreSQL servers, made with pg_basebackup as an administrator would."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from replicator.pgserver import PostgresServer
from replicator.servers import Setting, Throwaway

SLOT = "standby"


class Standby(PostgresServer):
    """Follows ``primary``; ``folder`` is for the copy that it starts from. See ``PostgresServer``."""

    def __init__(self, primary: PostgresServer, folder: Path, **settings: Setting) -> None:
        """Raises ServerFailed, CalledProcessError."""
        self.tls = None
        primary.execute(f"SELECT pg_create_physical_replication_slot('{SLOT}', true)")
        template = folder / "template"
        template.mkdir()
        _copy(primary, template / "data")
        (template / "data" / "standby.signal").touch()
        (template / "password").write_text(primary.password)
        login = f"user={primary.user} password={primary.password} dbname=postgres"
        self.settings = primary.settings | {
            "primary_conninfo": f"host=127.0.0.1 port={primary.port} {login}",
            "primary_slot_name": SLOT,
            "hot_standby_feedback": True,
            **settings,
        }
        Throwaway.__init__(self, "postgres", primary.installation, template)
        self._start_on_free_port()


def _copy(primary: PostgresServer, place: Path) -> None:
    command = [*primary.installation.command("pg_basebackup"), "--checkpoint=fast", "--no-sync"]
    endpoint = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", primary.user, "-D", str(place)]
    subprocess.run(
        [*command, *endpoint],
        env=os.environ | {"PGPASSWORD": primary.password},
        check=True,
        capture_output=True,
    )
