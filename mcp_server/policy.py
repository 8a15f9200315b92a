"""The one decision: may this principal do this verb on this URI, and which URIs may a list show it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from mcp_server.auth.principal import DEFAULT_TENANT, Principal
from mcp_server.errors import Forbidden, InvalidInput

Verb = Literal["read", "write", "run", "admin"]
VERBS: tuple[Verb, ...] = get_args(Verb)

# What a key may do unless it is created with scopes of its own: everything in its tenant but its administration.
DEFAULT_SCOPES = frozenset({"read", "write", "run"})


# The label of an operation that leaves this server.
EGRESS = "egress"


class Listing(str):
    """A URI prefix whose members are listed. A type of its own: no key, however named, is taken for one."""

    __slots__ = ()


class Outside(str):
    """A URI in a bucket of the operator's, whose name alone does not tell it from a tenant's own."""

    __slots__ = ()


class OutsideListing(Outside, Listing):
    """A listing of such a bucket."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Scope:
    """The URIs of one kind that a principal may see: all of them, or those under some prefixes."""

    everything: bool
    prefixes: tuple[str, ...] = ()

    def admits(self, uri: str) -> bool:
        return self.everything or uri.startswith(self.prefixes)

    def within(self, base: str) -> tuple[str, ...] | None:
        """Return the prefixes below `base` with `base` cut off; None means no restriction there.

        `()` means that nothing below `base` may be seen.
        """
        if self.everything or any(base.startswith(prefix) for prefix in self.prefixes):
            return None
        return tuple(prefix[len(base) :] for prefix in self.prefixes if prefix.startswith(base))


def parse_scope(text: str) -> str:
    """Return a scope in its plain form: `VERB`, `VERB:URI` or `VERB:URI-PREFIX*`.

    Raises:
        InvalidInput: the verb is unknown or the URI has no scheme.
    """
    verb, colon, uri = text.strip().partition(":")
    if verb not in VERBS or (colon and "://" not in uri) or "*" in uri[:-1]:
        raise InvalidInput(
            f"scope {text!r} is not VERB or VERB:URI with VERB one of {', '.join(VERBS)} "
            "and at most one * at the end, for example read:kv://public/*",
            param="scope",
        )
    return verb + colon + uri


def scope(principal: Principal, verb: Verb, kind: str) -> Scope:
    """Return what `principal` may see of `kind` (a URI scheme) with `verb`; lists push it into their query."""
    return _scope(principal.scopes, verb, kind)


def _scope(scopes: frozenset[str], verb: Verb, kind: str) -> Scope:
    if verb in scopes:
        return Scope(everything=True)
    own = [item[len(verb) + 1 :] for item in scopes if item.startswith(f"{verb}:{kind}://")]
    return Scope(
        everything=False, prefixes=tuple(sorted(uri[:-1] for uri in own if uri.endswith("*")))
    )


def allows(principal: Principal, verb: Verb, uri: str) -> bool:
    """Decide.

    A listing is allowed if any of it may be seen, and shows only that.
    A tool that reads or writes may be called by whoever may read or write anything: what it touches is
    decided again inside. A tool that runs something must be granted itself.
    """
    scopes = principal.scopes
    base = outside(uri)
    if base is not None and not operates(principal):
        return any(_covers(item, uri) for item in named(principal, verb, base))
    if isinstance(uri, Listing):
        seen = scope(principal, verb, uri.partition("://")[0]).within(uri)
        return seen is None or bool(seen)
    if verb in scopes or f"{verb}:{uri}" in scopes:
        return True
    kind = uri.partition("://")[0]
    granted = [item[len(verb) + 1 :] for item in scopes if item.startswith(f"{verb}:")]
    if kind == "tool" and verb in {"read", "write"} and granted:
        return True
    return any(item.endswith("*") and uri.startswith(item[:-1]) for item in granted)


def outside(uri: str) -> str | None:
    """Return the database or bucket of the operator's that `uri` lies in, as `sql://NAME/`; None if in none.

    What is there belongs to no tenant: neither a verb alone nor `sql://*` reaches it, only a scope that
    names the database or bucket, or the operator.
    """
    scheme, _, rest = uri.partition("://")
    name, slash, _ = rest.partition("/")
    if isinstance(uri, Outside) and scheme == "object":
        return f"{scheme}://{name}/" if slash else None
    return f"sql://{name}/" if scheme == "sql" and slash and name != "main" else None


def journalled(uri: str, labels: Iterable[str]) -> str:
    """Return the URI of a journal's entry as what it was: an object outside is told by its label."""
    return Outside(uri) if uri.startswith("object://") and EGRESS in labels else uri


def operates(principal: Principal) -> bool:
    """Tell whether this is the operator: the owner of the default tenant."""
    return principal.tenant == DEFAULT_TENANT and "admin" in principal.scopes


def named(principal: Principal, verb: Verb, base: str) -> tuple[str, ...]:
    """Return the URIs and `prefix*` forms below `base` on which a scope of `principal` grants `verb`."""
    start = f"{verb}:{base}"
    return tuple(
        item[len(verb) + 1 :] for item in sorted(principal.scopes) if item.startswith(start)
    )


def seen_outside(principal: Principal, verb: Verb, base: str) -> tuple[str, ...] | None:
    """Return what may be seen below `base` of the operator's: names and `prefix*` forms; None for all."""
    if not operates(principal):
        return tuple(item[len(base) :] for item in named(principal, verb, base))
    prefixes = scope(principal, verb, base.partition("://")[0]).within(base)
    return None if prefixes is None else tuple(f"{prefix}*" for prefix in prefixes)


def _covers(granted: str, uri: str) -> bool:
    """Tell whether one granted URI or `prefix*` is this URI, holds it, or lies in this listing."""
    if isinstance(uri, Listing) and granted.startswith(uri):
        return True
    return granted == uri or (granted.endswith("*") and uri.startswith(granted[:-1]))


def require(principal: Principal, verb: Verb, uri: str) -> None:
    """Decide, and raise Forbidden with the missing scope if the answer is no."""
    if not allows(principal, verb, uri):
        missing = verb if outside(uri) is None else f"{verb}:{uri}"
        raise Forbidden(f"this key may not {verb} {uri}; it lacks the scope {missing!r}")


def explain(principal: Principal, verb: Verb, uri: str) -> dict[str, object]:
    """Return the decision with its reason: the scope that grants it, or the one that is missing."""
    if outside(uri) is not None and operates(principal) and allows(principal, verb, uri):
        return {"allowed": True, "verb": verb, "uri": uri, "by": verb}
    for item in sorted(principal.scopes):
        if allows(Principal(principal.tenant, principal.subject, frozenset({item})), verb, uri):
            return {"allowed": True, "verb": verb, "uri": uri, "by": item}
    missing = verb if outside(uri) is None else f"{verb}:{uri}"
    return {"allowed": False, "verb": verb, "uri": uri, "missing": missing}


def granted(principal: Principal, verb: Verb) -> tuple[str, ...] | None:
    """Return the URIs and `prefix*` forms on which `principal` holds `verb`, None if on everything."""
    if verb in principal.scopes:
        return None
    start = f"{verb}:"
    return tuple(sorted(item[len(start) :] for item in principal.scopes if item.startswith(start)))
