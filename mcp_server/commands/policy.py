"""`isthmus policy explain`: one decision, with its reason."""

from __future__ import annotations

import argparse
import json

from mcp_server import policy
from mcp_server.auth.keys import KeyService
from mcp_server.auth.principal import Principal
from mcp_server.commands.control import control_database
from mcp_server.errors import InvalidInput, NotFound
from mcp_server.settings import Settings


async def explain(settings: Settings, options: argparse.Namespace) -> int:
    """Print whether the key may do `verb` on `uri`, and which scope decides; exit 0 if allowed, else 1."""
    if "://" not in options.uri:
        raise InvalidInput(
            f"uri: {options.uri!r} has no scheme; give for example kv://default/key", param="uri"
        )
    async with control_database(settings) as control:
        found = {info["id"]: info for info in await KeyService(control).list()}
    info = found.get(options.key_id)
    if info is None:
        raise NotFound(
            f"key {options.key_id!r} does not exist; `isthmus keys list` shows those that do"
        )
    if info["revoked_at"]:
        decision: dict[str, object] = {
            "allowed": False,
            "verb": options.verb,
            "uri": options.uri,
            "missing": "the key is revoked",
        }
    else:
        principal = Principal(info["tenant"], info["user"], frozenset(info["scopes"]), info["id"])
        uri = policy.Listing(options.uri[:-1]) if options.uri.endswith("*") else options.uri
        decision = policy.explain(principal, options.verb, uri)
    if options.json:
        print(json.dumps(decision))
    elif decision["allowed"]:
        print(f"allowed: {options.verb} {options.uri} by the scope {decision['by']}")
    else:
        print(f"refused: {options.verb} {options.uri}; missing {decision['missing']}")
    return 0 if decision["allowed"] else 1
