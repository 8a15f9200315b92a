"""What an answer says of the caller's rate: the x-ratelimit headers of OpenAI's API."""

from __future__ import annotations

from mcp_server.limits import current_allowance


def allowance_headers() -> list[tuple[bytes, bytes]]:
    """Give x-ratelimit-{limit,remaining,reset}-requests, none if the caller has no rate."""
    allowance = current_allowance()
    if allowance is None:
        return []
    return [
        (b"x-ratelimit-limit-requests", b"%d" % allowance.limit),
        (b"x-ratelimit-remaining-requests", b"%d" % allowance.remaining),
        (b"x-ratelimit-reset-requests", span(allowance.reset).encode()),
    ]


def span(seconds: float) -> str:
    """Write a length of time as OpenAI does: 12ms, 1.5s, 6m0s, 1h0m0s.

    >>> span(0.012), span(1.5), span(360), span(3600)
    ('12ms', '1.5s', '6m0s', '1h0m0s')
    """
    if seconds < 1:
        return f"{max(1, round(seconds * 1000))}ms"
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
