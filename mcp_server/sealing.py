"""What a client keeps for the server without reading or changing it: sealed for one tenant."""

from __future__ import annotations

import base64
import binascii
import os

from mcp_server.errors import InvalidInput
from mcp_server.secret import derive

_NONCE_BYTES = 12
_LEAST_BYTES = _NONCE_BYTES + 16


class Sealer:
    """Seals texts with AES-256-GCM; every process of the deployment opens them."""

    def __init__(self, secret: bytes, purpose: str) -> None:
        self._key = derive(secret, f"sealed {purpose}")
        self._purpose = purpose.encode()

    def seal(self, tenant: str, text: str) -> str:
        """Return the text in a form that only the same tenant's callers can give back."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE_BYTES)
        sealed = AESGCM(self._key).encrypt(nonce, text.encode(), self._bound_to(tenant))
        return base64.urlsafe_b64encode(nonce + sealed).decode()

    def open(self, tenant: str, sealed: str) -> str:
        """Return the text that was sealed for the tenant.

        Raises:
            InvalidInput: it was not made here for this tenant, or was changed.
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            raw = base64.b64decode(sealed, altchars=b"-_", validate=True)
            if len(raw) < _LEAST_BYTES:
                raise _STRANGE
            nonce, body = raw[:_NONCE_BYTES], raw[_NONCE_BYTES:]
            return AESGCM(self._key).decrypt(nonce, body, self._bound_to(tenant)).decode()
        except (InvalidTag, binascii.Error, ValueError) as error:
            raise _STRANGE from error

    def _bound_to(self, tenant: str) -> bytes:
        return self._purpose + b"\0" + tenant.encode()


_STRANGE = InvalidInput("the sealed content was not made by this server for this caller's tenant")
