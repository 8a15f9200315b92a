"""How the state is protected that a call carries from round to round in its client's hands."""

from __future__ import annotations

import json
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.request_state import RequestStateSecurity

from mcp_server.auth.principal import current_principal

# A person answers between two rounds, not a program.
STATE_SECONDS = 86_400.0


def state_security(secret: bytes) -> RequestStateSecurity:
    """Return the seal of all processes that share `secret`: any of them may take the next round."""
    return RequestStateSecurity(keys=[secret], ttl=STATE_SECONDS, bind_principal=_owner)


def _owner(_: ServerRequestContext[Any, Any]) -> str:
    """Return whose state it is: nobody else may go on with it."""
    principal = current_principal()
    return json.dumps([principal.tenant, principal.subject, principal.key_id])
