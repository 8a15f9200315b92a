"""Where a tenant's own tables live: the one place that changes when tenants are spread over databases."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Placement:
    """`url` names the data database; `schema` is the tenant's in it, an identifier that needs no quotes."""

    url: str
    schema: str


class Placements:
    """Every tenant on one database.

    The schema's name is a hash, so that no catalog or log shows a tenant's name. It does not depend on
    the secret key: a new key must not part a tenant from its tables. Knowing it gives no access.
    """

    def __init__(self, data_url: str) -> None:
        self._data_url = data_url

    def __call__(self, tenant: str) -> Placement:
        digest = hashlib.sha256(b"isthmus tenant\0" + tenant.encode()).hexdigest()
        return Placement(self._data_url, f"tenant_{digest[:20]}")
