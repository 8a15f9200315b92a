"""A PostgreSQL of its own over TCP, set up as the stack's is: by deploy/postgres-init.sql."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import asyncpg  # pyright: ignore[reportMissingTypeStubs]

from mcp_server.storage.sql.embedded.account import account_for
from mcp_server.storage.sql.embedded.binaries import binaries_for, run
from tests.servers.ports import free_ports

SETUP = Path(__file__).parents[2] / "deploy" / "postgres-init.sql"
START_SECONDS = 60.0
# A killed process loses nothing that the system has; only a machine that falls would.
FAST = ("-c", "fsync=off", "-c", "full_page_writes=off")


class PostgresqlServer:
    """One server in a process group of its own, as a user that PostgreSQL accepts.

    `folder` must be passable for that user when root runs the tests.
    """

    def __init__(self, folder: Path, secrets: Path) -> None:
        self.folder = folder
        self.secrets = secrets
        self.port = free_ports(1)[0]
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        self._account = account_for(folder)
        self._binaries = binaries_for(self._account, folder)

    async def set_up(self) -> None:
        """Make its files, start it and make the databases."""
        password = self.folder / "password"
        password.write_text((self.secrets / "postgres_password").read_text())
        self._account.own(password)
        self._account.own(self.folder)
        options = ["--username=postgres", f"--pwfile={password}", "--auth=scram-sha-256"]
        locale = ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        program = self._binaries / "bin" / "initdb"
        run(self._account, program, "-D", self.folder / "data", *options, *locale, "--no-sync")
        await self.start()
        for database, statements in self._setup():
            connection = await self._connect(database)
            try:
                for statement in statements:
                    await connection.execute(statement)
            finally:
                await connection.close()

    async def start(self) -> None:
        """Start it on the data and the port that it had, and return when it answers."""
        settings = ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1"]
        own = ["-c", "unix_socket_directories=", "-c", "max_connections=300"]
        program = self._binaries / "bin" / "postgres"
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self.process is None or self.process.poll() is not None:
                # The backends of a killed one may hold its memory for a moment longer.
                with (self.folder / "log").open("ab") as log:
                    self.process = subprocess.Popen(  # noqa: ASYNC220  it takes a moment
                        [program, "-D", self.folder / "data", *settings, *own, *FAST],
                        env={"PATH": os.defpath, "LC_ALL": "C"},
                        cwd="/",
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                        **self._account.switch,
                    )
            try:
                await (await self._connect("postgres")).close()
            except (OSError, asyncpg.PostgresError):
                if time.monotonic() > deadline:
                    log_text = (self.folder / "log").read_text()
                    raise AssertionError(f"PostgreSQL did not start: {log_text[-2000:]}") from None
                time.sleep(0.05)  # noqa: ASYNC251  nothing else runs beside a start
                continue
            return

    def kill(self) -> None:
        """kill -9 of the postmaster; its backends end by themselves when they notice."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    async def _connect(self, database: str) -> asyncpg.Connection:
        return await asyncpg.connect(
            host="127.0.0.1",
            port=self.port,
            user="postgres",
            password=(self.secrets / "postgres_password").read_text(),
            database=database,
            timeout=5,
        )

    def _setup(self) -> list[tuple[str, list[str]]]:
        """Return each database's statements, as psql would send them."""
        text = re.sub(r"^--.*$", "", SETUP.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for name, file in re.findall(r"^\\set (\w+) `cat /run/secrets/(\w+)`$", text, re.MULTILINE):
            text = text.replace(f":'{name}'", f"'{(self.secrets / file).read_text()}'")
        text = re.sub(r"^\\set .*$", "", text, flags=re.MULTILINE)
        first, *others = re.split(r"^\\connect (\w+)$", text, flags=re.MULTILINE)
        parts = [("postgres", first), *zip(others[::2], others[1::2], strict=True)]
        return [
            (database, [one.strip() for one in part.split(";") if one.strip()])
            for database, part in parts
        ]
