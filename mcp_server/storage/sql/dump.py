"""Tenants' schemas as files: PostgreSQL's own pg_dump and pg_restore, from the wheel of the embedded engine."""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from mcp_server.errors import Unavailable
from mcp_server.storage.sql.embedded.binaries import complaint, programs

# What the restoring role may not make, and what is there before it comes.
_NOT_RESTORED = re.compile(r"^\d+; \d+ \d+ (SCHEMA|ACL|DEFAULT ACL|COMMENT - SCHEMA) ")


async def dump_schema(url: str, schema: str, snapshot: str, target: Path) -> None:
    """Write one schema as it is in an exported snapshot; owners and privileges are left out.

    Raises:
        Unavailable: the database does not answer, or is of a newer major version than the programs.
    """
    await _run(
        "pg_dump",
        url,
        *("--format=custom", f"--schema={schema}", f"--snapshot={snapshot}"),
        *("--no-owner", "--no-privileges", f"--file={target}"),
    )


async def restore_schema(url: str, source: Path) -> None:
    """Make everything in a dump but its schema, in one transaction, as the role of the URL.

    Raises:
        Unavailable: the database does not answer, or refuses what is in the dump.
    """
    listed = await _run("pg_restore", None, "--list", str(source))
    wanted = [line for line in listed.splitlines() if line and not _NOT_RESTORED.match(line)]
    names = source.with_suffix(".list")
    names.write_text("\n".join(wanted), encoding="utf-8")
    try:
        await _run(
            "pg_restore",
            url,
            *("--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"),
            *(f"--use-list={names}", str(source)),
        )
    finally:
        names.unlink()


async def _run(program: str, url: str | None, *arguments: str) -> str:
    place = [] if url is None else [f"--dbname={_without_password(url)}"]
    process = await asyncio.create_subprocess_exec(
        programs() / program,
        *place,
        *arguments,
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", **(_password(url) if url else {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise Unavailable(f"{program} failed: {complaint(errors.decode(errors='replace'))}")
    return output.decode()


def _password(url: str) -> dict[str, str]:
    """Return the password as the environment carries it: anyone may read a command line."""
    parts = urlsplit(url)
    secret = unquote(parts.password or "") or dict(parse_qsl(parts.query)).get("password", "")
    return {"PGPASSWORD": secret} if secret else {}


def _without_password(url: str) -> str:
    return re.sub(r"(//[^:/@?]*):[^@/]*@", r"\1@", url)
