"""The one decision, and what it lets lists show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import Forbidden, InvalidInput

KEYS = st.text(alphabet="ab/*", max_size=6)


def holder(*scopes: str) -> Principal:
    return Principal("t", "s", frozenset(scopes))


@pytest.mark.parametrize(
    ("scopes", "verb", "uri", "allowed"),
    [
        (("read",), "read", "kv://default/a", True),
        (("read",), "write", "kv://default/a", False),
        (("write",), "read", "kv://default/a", False),
        (("admin",), "run", "agent://a", False),
        ((), "read", "kv://default/a", False),
        (("read:kv://public/*",), "read", "kv://public/a", True),
        (("read:kv://public/*",), "read", "kv://publicity/a", False),
        (("read:kv://public/*",), "read", "object://public/a", False),
        (("read:kv://public/a",), "read", "kv://public/a", True),
        (("read:kv://public/a",), "read", "kv://public/ab", False),
        # A tool that reads or writes needs its verb on anything; one that runs must be granted itself.
        (("read:kv://public/*",), "read", "tool://kv_get", True),
        (("read:kv://public/*",), "write", "tool://kv_set", False),
        (("run:tool://agent_run",), "run", "tool://agent_run", True),
        (("run:tool://agent_run", "run:agent://a"), "run", "tool://other", False),
        # A listing is allowed if any of it may be seen.
        (("read:kv://public/x*",), "read", policy.Listing("kv://public/"), True),
        (("read:kv://public/x*",), "read", policy.Listing("kv://private/"), False),
        # A database of the operator's is reached by the scopes that name it only.
        (("read",), "read", "sql://crm/public.t", False),
        (("read", "admin"), "read", policy.Listing("sql://crm/"), False),
        (("read",), "read", "sql://main/t", True),
        (("read:sql://*",), "read", "sql://crm/public.t", False),
        (("read:sql://cr*",), "read", "sql://crm/public.t", False),
        (("read:sql://crm/*",), "read", "sql://crm/public.t", True),
        (("read:sql://crm/*",), "read", policy.Listing("sql://crm/"), True),
        (("read:sql://crm/*",), "write", "sql://crm/public.t", False),
        (("read:sql://crm/*",), "read", "sql://crm2/public.t", False),
        (("read:sql://crm/public.t",), "read", "sql://crm/public.t", True),
        (("read:sql://crm/public.t",), "read", "sql://crm/public.t2", False),
        (("read:sql://crm/public.t",), "read", policy.Listing("sql://crm/"), True),
        # A key that looks like a pattern is a key.
        (("read:kv://public/abc*",), "read", "kv://public/a*", False),
        (("read:kv://public/abc*",), "read", "kv://public/*", False),
    ],
)
def test_a_decision_follows_the_scopes(
    scopes: tuple[str, ...], verb: policy.Verb, uri: str, allowed: bool
) -> None:
    assert policy.allows(holder(*scopes), verb, uri) is allowed
    assert policy.explain(holder(*scopes), verb, uri)["allowed"] is allowed


def test_a_refusal_names_the_missing_scope() -> None:
    with pytest.raises(Forbidden, match=r"may not write kv://a/b; it lacks the scope 'write'"):
        policy.require(holder("read"), "write", "kv://a/b")


@given(base=KEYS, prefix=KEYS, key=KEYS)
def test_what_a_list_shows_is_what_may_be_read(base: str, prefix: str, key: str) -> None:
    """`within` is the list's condition: it must agree with `allows` on every single key."""
    base = "kv://" + base.replace("*", "")
    principal = holder(f"read:kv://{prefix.replace('*', '')}*")
    visible = policy.scope(principal, "read", "kv").within(base)
    uri = base + key.replace("*", "")
    shown = visible is None or any(uri[len(base) :].startswith(item) for item in visible)
    assert shown is policy.allows(principal, "read", uri)


def test_granted_is_everything_or_the_named_uris() -> None:
    assert policy.granted(holder("read", "read:kv://a/*"), "read") is None
    assert policy.granted(holder("read:kv://a/*", "write:kv://b"), "read") == ("kv://a/*",)
    assert policy.granted(holder(), "read") == ()


@pytest.mark.parametrize("text", ["read", "write:kv://a/*", " run:tool://x ", "admin"])
def test_a_well_formed_scope_is_kept(text: str) -> None:
    assert policy.parse_scope(text) == text.strip()


@pytest.mark.parametrize(
    "text", ["", "*", "delete", "read:", "read:kv", "read:kv://a*b", "read:kv://**"]
)
def test_a_malformed_scope_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(InvalidInput, match="VERB or VERB:URI"):
        policy.parse_scope(text)
