"""PostgreSQL's errors become the caller's, by SQLSTATE and without opaque names."""

from __future__ import annotations

import asyncpg
import pytest

from mcp_server.errors import AppError
from mcp_server.storage.sql.failures import translate
from mcp_server.storage.sql.wire import PostgresError


def error(state: str, message: str = "it failed", **fields: str) -> PostgresError:
    wire = {"C": state, "M": message} | fields
    return PostgresError(asyncpg.PostgresError.new(wire))


@pytest.mark.parametrize(
    ("state", "code", "retryable"),
    [
        ("42601", "invalid_input", False),
        ("22P02", "invalid_input", False),
        ("23502", "invalid_input", False),
        ("23514", "invalid_input", False),
        ("54001", "invalid_input", False),
        ("0A000", "invalid_input", False),
        ("23505", "conflict", False),
        ("23503", "conflict", False),
        ("40P01", "conflict", False),
        ("40001", "conflict", False),
        ("42P07", "conflict", False),
        ("2BP01", "conflict", False),
        ("42501", "forbidden", False),
        ("25006", "forbidden", False),
        ("57014", "timeout", True),
        ("53400", "limit_exceeded", True),
        ("53100", "unavailable", True),
        ("53300", "unavailable", True),
        ("57P01", "unavailable", True),
        ("08006", "unavailable", True),
        ("58030", "unavailable", True),
        ("XX000", "unavailable", True),
    ],
)
def test_each_class_of_errors_has_its_code(state: str, code: str, retryable: bool) -> None:
    translated = translate(error(state), "tenant_0a1b2c3d", positions=True)
    assert isinstance(translated, AppError)
    assert (translated.code, translated.retryable) == (code, retryable)


def test_the_message_has_detail_hint_and_place_but_no_opaque_name() -> None:
    failed = error(
        "23503",
        'key is not in "tenant_0a1b2c3d.t"',
        D="Key (a)=(1) of tenant_ffffffff00.secret and isth_0123456789_rw.",
        H="Look at tenant_0a1b2c3d.",
        P="7",
    )
    text = translate(failed, "tenant_0a1b2c3d", positions=True).message
    assert text == (
        'sql: key is not in "t". Key (a)=(1) of (hidden).secret and (hidden). '
        "Hint: Look at main (SQLSTATE 23503, at character 7)"
    )
    assert "character" not in translate(failed, "tenant_0a1b2c3d", positions=False).message
    assert len(translate(error("22000", "x" * 9999), "t", positions=True).message) < 1100


def test_a_denied_permission_names_nothing() -> None:
    denied = error("42501", "permission denied for table salaries of bob")
    assert "salaries" not in translate(denied, "tenant_0a1b2c3d", positions=True).message
