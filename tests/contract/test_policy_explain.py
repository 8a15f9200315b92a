"""`isthmus policy explain` answers as the server would, for what the operator configured too."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.keys import KeyService
from mcp_server.commands.policy import explain
from mcp_server.settings import Settings
from mcp_server.storage.sql.embedded import Cluster

DATABASES = "crm=postgresql://u:p@127.0.0.1:1/crm,books=postgresql://u:p@127.0.0.1:1/b?mode=rw"
BUCKETS = "shelf=s3://K:S@127.0.0.1:1/shelf,inbox=s3://K:S@127.0.0.1:1/inbox?mode=rw"
SCOPES = {
    "plain": ["read", "write"],
    "wide": ["read:object://*", "read:sql://*"],
    "named": ["read:sql://crm/*", "write:sql://crm/*", "write:sql://books/public.t"],
    "filer": ["read:object://shelf/a/*", "write:object://shelf/*", "write:object://inbox/*"],
    "operator": ["read", "write", "admin"],
}


@pytest.mark.parametrize(
    ("key", "verb", "uri", "by", "missing"),
    [
        ("plain", "read", "object://own/k", "read", None),
        ("plain", "read", "object://shelf/k", None, "read:object://shelf/k"),
        ("plain", "write", "object://inbox/*", None, "write:object://inbox/"),
        ("plain", "read", "sql://main/t", "read", None),
        ("plain", "read", "sql://crm/public.t", None, "read:sql://crm/public.t"),
        ("wide", "read", "object://shelf/k", None, "read:object://shelf/k"),
        ("wide", "read", "sql://crm/*", None, "read:sql://crm/"),
        ("named", "read", "sql://crm/public.t", "read:sql://crm/*", None),
        ("named", "write", "sql://crm/public.t", None, "mode=rw of 'crm' in ISTHMUS_DATABASES"),
        ("named", "write", "sql://books/public.t", "write:sql://books/public.t", None),
        ("named", "read", "sql://other/public.t", None, "a database 'other' in ISTHMUS_DATABASES"),
        ("filer", "read", "object://shelf/a/1", "read:object://shelf/a/*", None),
        ("filer", "read", "object://shelf/*", "read:object://shelf/a/*", None),
        ("filer", "read", "object://shelf/b/1", None, "read:object://shelf/b/1"),
        ("filer", "write", "object://shelf/k", None, "mode=rw of 'shelf' in ISTHMUS_BUCKETS"),
        ("filer", "write", "object://inbox/k", "write:object://inbox/*", None),
        ("operator", "read", "object://shelf/k", "read", None),
        ("operator", "write", "sql://books/public.t", "write", None),
        ("operator", "write", "sql://crm/public.t", None, "mode=rw of 'crm' in ISTHMUS_DATABASES"),
    ],
)
async def test_a_decision_knows_the_databases_and_buckets_that_are_configured(
    cluster: Cluster,
    control: AsyncEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    key: str,
    verb: str,
    uri: str,
    by: str | None,
    missing: str | None,
) -> None:
    for name, value in (("DATABASES", DATABASES), ("BUCKETS", BUCKETS)):
        monkeypatch.setenv(f"ISTHMUS_{name}", value)
    settings = Settings(data_dir=tmp_path, database_url=cluster.control_url)
    made = await KeyService(control).create(key, scopes=SCOPES[key])
    asked = Namespace(key_id=made["id"], verb=verb, uri=uri, json=True)
    code = await explain(settings, asked)
    told = json.loads(capsys.readouterr().out)
    assert (told["allowed"], told.get("by"), told.get("missing")) == (by is not None, by, missing)
    assert code == (by is None)
