"""`isthmus keys`: create, list, revoke, usage."""

from __future__ import annotations

import argparse
import json

from mcp_server.auth.keys import KeyInfo, KeyService
from mcp_server.commands.control import control_database
from mcp_server.services.model_usage import UsageItem, read_usage
from mcp_server.settings import Settings


async def run(settings: Settings, options: argparse.Namespace) -> int:
    """Run one action and print its result."""
    async with control_database(settings) as control:
        keys = KeyService(control)
        match options.action:
            case "create":
                await _create(keys, options)
            case "revoke":
                info = await keys.revoke(options.id)
                print(
                    json.dumps(info) if options.json else f"revoked {info['id']} ({info['name']})"
                )
            case "usage":
                found = await read_usage(control, days=options.days, key=options.key)
                _show_usage(found, as_json=options.json)
            case _:
                await _list(keys, as_json=options.json)
    return 0


async def _create(keys: KeyService, options: argparse.Namespace) -> None:
    new = await keys.create(
        options.name,
        tenant=options.tenant,
        user=options.user,
        scopes=options.scope,
        expires_days=options.expires,
        rate_limit=options.rate_limit,
    )
    if options.json:
        print(json.dumps(new))
        return
    print(
        f"{new['id']}  tenant {new['tenant']}  user {new['user']}  scopes {' '.join(new['scopes'])}"
    )
    print(f"API key: {new['key']}")
    print("It is shown this once: only its hash is kept.")


async def _list(keys: KeyService, *, as_json: bool) -> None:
    found = await keys.list()
    if as_json:
        print(json.dumps(found))
        return
    if not found:
        print("no keys; `isthmus keys create NAME` makes one")
    for info in found:
        print(
            "  ".join(
                (
                    info["id"],
                    info["tenant"],
                    info["user"],
                    _state(info),
                    " ".join(info["scopes"]),
                    info["name"],
                )
            )
        )


def _show_usage(found: list[UsageItem], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    if not found:
        print("nothing was asked of any model in these days")
    for item in found:
        tokens = f"{item['prompt_tokens']} in, {item['completion_tokens']} out"
        who = item["name"] or item["key"] or "(no key)"
        print(
            f"{item['day']}  {item['tenant']}  {who}  {item['model']}  {item['requests']} requests  {tokens}"
        )


def _state(info: KeyInfo) -> str:
    if info["revoked_at"]:
        return f"revoked {info['revoked_at'][:10]}"
    return f"expires {info['expires_at'][:10]}" if info["expires_at"] else "active"
