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
from mcp_server.storage.buckets import modes


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
        decision = policy.explain(principal, options.verb, _uri(settings, options.uri))
        missing = _not_configured(settings, options.verb, options.uri)
        if missing is not None:
            decision = {
                "allowed": False,
                "verb": options.verb,
                "uri": options.uri,
                "missing": missing,
            }
    if options.json:
        print(json.dumps(decision))
    elif decision["allowed"]:
        print(f"allowed: {options.verb} {options.uri} by the scope {decision['by']}")
    else:
        print(f"refused: {options.verb} {options.uri}; missing {decision['missing']}")
    return 0 if decision["allowed"] else 1


def _uri(settings: Settings, given: str) -> str:
    """Return a URI, or with a `*` at its end a listing, as what the configuration makes of it."""
    kind, name = _place(given)
    outside = kind == "object" and name in modes(settings.buckets)
    if given.endswith("*"):
        return (policy.OutsideListing if outside else policy.Listing)(given[:-1])
    return policy.Outside(given) if outside else given


def _not_configured(settings: Settings, verb: str, given: str) -> str | None:
    """Return what the configuration lacks, whatever the key's scopes are."""
    kind, name = _place(given)
    if kind == "sql" and name not in {"", "main"}:
        databases = {item.name: item.writable for item in settings.databases}
        if name not in databases:
            return f"a database {name!r} in ISTHMUS_DATABASES"
        writable, setting = databases[name], "ISTHMUS_DATABASES"
    else:
        buckets = modes(settings.buckets) if kind == "object" else {}
        writable, setting = buckets.get(name, True), "ISTHMUS_BUCKETS"
    return f"mode=rw of {name!r} in {setting}" if verb == "write" and not writable else None


def _place(uri: str) -> tuple[str, str]:
    """Return the scheme, and the name of the database or bucket."""
    kind, _, rest = uri.partition("://")
    name, slash, _ = rest.partition("/")
    return kind, name if slash else ""
