"""PostgreSQL's errors as the caller's: mapped by SQLSTATE, without the server's opaque names."""

from __future__ import annotations

import re

from mcp_server.errors import (
    AppError,
    Conflict,
    Forbidden,
    InvalidInput,
    LeaseLost,
    LimitExceeded,
    Timeout,
    Unavailable,
)
from mcp_server.storage.sql.tenant_effects_schema import LEASE_LOST, OTHER_ARGUMENTS
from mcp_server.storage.sql.wire import PostgresError

_MAX_MESSAGE = 1000

# By SQLSTATE, else by its first two characters; https://www.postgresql.org/docs/18/errcodes-appendix.html
_BY_STATE: dict[str, type[AppError]] = {
    "57014": Timeout,  # query_canceled
    "23502": InvalidInput,  # not_null_violation
    "23514": InvalidInput,  # check_violation
    "42P07": Conflict,  # duplicate_table
    "42710": Conflict,  # duplicate_object
    "2BP01": Conflict,  # dependent_objects_still_exist
    "55006": Conflict,  # object_in_use
    "55P03": Unavailable,  # lock_not_available
    "53200": LimitExceeded,  # out_of_memory: the bound of one backend
    "53400": LimitExceeded,  # configuration_limit_exceeded: the temporary file limit
}
_BY_CLASS: dict[str, type[AppError]] = {
    "08": Unavailable,  # connection
    "23": Conflict,  # integrity constraint
    "40": Conflict,  # transaction rollback: serialisation, deadlock
    "53": Unavailable,  # insufficient resources
    "57": Unavailable,  # operator intervention
    "58": Unavailable,  # system error
    "XX": Unavailable,  # internal error
}

# Text that a type does not take; the statement itself may hold it too, but parameters are likelier.
_VALUES = {"22P02", "22007", "22008", "22021"}


def translate(
    error: PostgresError, schema: str, *, positions: bool, outside: bool = False
) -> AppError:
    """Return the error for the caller. `positions`: the text sent was the caller's own.

    `outside`: the database is not this server's, and `schema` no secret.
    """
    state = error.sqlstate or "XX000"
    if state == LEASE_LOST:
        return LeaseLost()
    if state == OTHER_ARGUMENTS:
        return Conflict(
            "params: the same statement ran with other params under the same idempotency key; "
            "give each call a key of its own",
            param="params",
        )
    if state == "42501" and outside:
        return Forbidden("sql: permission denied by this database", param="sql")
    if state == "42501":
        # Its text names objects and roles that the caller may not know of.
        return Forbidden(
            "sql: permission denied: only your own schema can be used, and sql_query only reads it",
            param="sql",
        )
    if state == "25006":
        return Forbidden("sql: sql_query only reads; use sql_execute", param="sql")
    if state == "57014":
        return Timeout("sql: the statement was cancelled because it ran too long; make it smaller")
    kind = _BY_STATE.get(state) or _BY_CLASS.get(state[:2], InvalidInput)
    if kind is Unavailable:
        return Unavailable(f"the data database cannot do this now (SQLSTATE {state}); try again")
    place = f", at character {error.position}" if positions and error.position else ""
    parts = [error.message, error.detail, error.hint and f"Hint: {error.hint}"]
    text = ". ".join(part.rstrip(".") for part in parts if part)
    shown = text if outside else hide(text, schema)
    message = f"sql: {shown[:_MAX_MESSAGE]} (SQLSTATE {state}{place})"
    return kind(message, param="params" if state in _VALUES else "sql")


def hide(text: str, schema: str) -> str:
    """Take the schema's opaque name out of a text, and whatever looks like another one."""
    text = text.replace(f"{schema}.", "").replace(schema, "main")
    return re.sub(r"\b(?:tenant|isth)_[0-9a-f]{8,}\w*", "(hidden)", text)
