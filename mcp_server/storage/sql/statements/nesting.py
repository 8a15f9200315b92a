"""A bound on a statement's size and depth, found before the parser recurses over it.

Measured with pglast 8.8 on an 8 MiB stack: `1+1+…` and `select 1 union select 1 …` kill the process by
stack overflow from 15,000 levels on. The scanner does not recurse, so the bound comes from its tokens.
"""

from __future__ import annotations

from pglast.parser import ParseError, scan

from mcp_server.errors import InvalidInput

# The scanner holds the event loop for about a microsecond a byte, if all words are of one letter.
MAX_BYTES = 128 * 1024
# The parser needs about 7 microseconds a token, on the event loop.
MAX_TOKENS = 20_000
MAX_DEPTH = 3_000

_OPEN = {"ASCII_40", "ASCII_91"}
_CLOSE = {"ASCII_41", "ASCII_93"}
_COMMA = "ASCII_44"
# A comma ends a chain of operators, but `select 1, 2 union select 1, 2 union …` nests on.
_SET_OPERATIONS = {"UNION", "INTERSECT", "EXCEPT"}


def check_size(sql: str) -> None:
    """Return if the parser can take the statement.

    Raises:
        InvalidInput: it is too long, nested too deeply, holds a NUL, or cannot be scanned.
    """
    size = len(sql.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise InvalidInput(
            f"sql: {size} bytes are more than the {MAX_BYTES} allowed; pass the data in params",
            param="sql",
        )
    if "\0" in sql or (not sql.isascii() and _has_surrogate(sql)):
        raise InvalidInput(
            "sql: it holds a NUL or half a surrogate pair, which PostgreSQL cannot store; leave it out",
            param="sql",
        )
    try:
        names = [token.name for token in scan(sql)]
    except ParseError as error:
        raise InvalidInput(f"sql: {error.args[0]}", param="sql") from error
    if len(names) > MAX_TOKENS:
        raise InvalidInput(
            f"sql: {len(names)} words are more than the {MAX_TOKENS} allowed; "
            "pass the data in params, for example as one jsonb value",
            param="sql",
        )
    if _depth(names) > MAX_DEPTH:
        raise InvalidInput(
            f"sql: it may be nested more than {MAX_DEPTH} levels deep; split it", param="sql"
        )


def _has_surrogate(sql: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in sql)


def _depth(names: list[str]) -> int:
    """Return an upper bound of the parse tree's depth.

    A level can only come from a token of an enclosing, unfinished list item, so the bound is the number
    of tokens since the last comma, summed over the open brackets, plus all set operations.
    """
    deepest = total = 0
    chain = unions = 0
    stack: list[tuple[int, int]] = []
    for name in names:
        if name in _OPEN:
            stack.append((chain, unions))
            total += chain + unions + 1
            chain = unions = 0
        elif name in _CLOSE and stack:
            chain, unions = stack.pop()
            total -= chain + unions + 1
        elif name == _COMMA:
            chain = 0
        else:
            chain += 1
            unions += name in _SET_OPERATIONS
        deepest = max(deepest, total + chain + unions)
    return deepest
