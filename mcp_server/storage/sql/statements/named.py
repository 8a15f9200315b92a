"""Named parameters of an operator's statement: `:name` becomes `$n`, so that values are only ever bound."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pglast.parser import ParseError, scan

from mcp_server.errors import InvalidInput

_COLON, _PARAM = "ASCII_58", "PARAM"


def numbered(sql: str, names: Sequence[str]) -> str:
    """Return `sql` with `$1` for `:name` of the first of `names`, `$2` for the second's, …

    Only a colon right before a name is one, and not in a text, a comment or `::`.

    Raises:
        InvalidInput: a name in it is not among `names`, one of `names` not in it, or it has a `$n`.
    """
    try:
        tokens = scan(sql)
    except ParseError as error:
        raise InvalidInput(f"sql: {error.args[0]}", param="sql") from error
    pieces: list[str] = []
    used = set[str]()
    kept = 0
    for token, after in pairwise(tokens):
        word = sql[after.start : after.end + 1]
        if token.name != _COLON or after.start != token.end + 1 or not word[:1].isalpha():
            continue
        if word not in names:
            raise InvalidInput(f"sql: :{word} is not among the parameters; declare it", param="sql")
        used.add(word)
        pieces += [sql[kept : token.start], f"${names.index(word) + 1}"]
        kept = after.end + 1
    if any(token.name == _PARAM for token in tokens):
        raise InvalidInput("sql: it has a $n; write the parameter as :NAME", param="sql")
    for name in names:
        if name not in used:
            raise InvalidInput(f"sql: the parameter {name!r} is not used in it", param="sql")
    return "".join(pieces) + sql[kept:]
