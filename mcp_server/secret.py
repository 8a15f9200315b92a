"""The server's secret: given by the operator, or made once and kept in the data directory."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from mcp_server.errors import ConfigurationError
from mcp_server.settings import Settings

FILE = "secret.key"


def server_secret(settings: Settings) -> bytes:
    """Return 32 bytes that every process of one deployment shares.

    Raises:
        ConfigurationError: no secret is set and the data directory cannot keep one.
    """
    if settings.secret_key is not None:
        return hashlib.sha256(settings.secret_key.encode()).digest()
    path = settings.data_dir / FILE
    try:
        return _kept(path)
    except OSError as error:
        raise ConfigurationError(
            f"ISTHMUS_DATA_DIR={settings.data_dir}: cannot keep the secret key there ({error.strerror}); "
            "choose a directory that this user can write, or set ISTHMUS_SECRET_KEY"
        ) from error


def pass_secret(settings: Settings) -> bytes:
    """Return the 32 bytes that passes and seals are made with, which open no data if they have a key of their own.

    Raises:
        ConfigurationError: no secret is set and the data directory cannot keep one.
    """
    if settings.pass_key is not None:
        return hashlib.sha256(settings.pass_key.encode()).digest()
    return server_secret(settings)


def derive(secret: bytes, purpose: str) -> bytes:
    """Return 32 bytes for one purpose: what leaks of one use tells nothing of another."""
    return hmac.digest(secret, purpose.encode(), "sha256")


def _kept(path: Path) -> bytes:
    with suppress(FileNotFoundError):
        return _read(path)
    _make_data_dir(path.parent)
    # Written aside and linked: processes that start together agree on the first one's secret.
    aside = path.with_name(f"{FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(32))
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):
        os.link(aside, path)
    aside.unlink()
    return _read(path)


def _make_data_dir(path: Path) -> None:
    """Make it if absent. Under root others may pass, not list: the database runs as a user of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir()
        path.chmod(0o711 if hasattr(os, "geteuid") and os.geteuid() == 0 else 0o700)


def _read(path: Path) -> bytes:
    data = path.read_bytes()
    if len(data) != 32:
        raise ConfigurationError(
            f"{path} is damaged: it must hold 32 bytes; restore it from a backup"
        )
    return data
