"""What the id of a model names: a model of the router, or an agent."""

from __future__ import annotations

_AGENT = "agent/"


def model_uri(model: str) -> str:
    """Return what is run to answer for a model id."""
    if model.startswith(_AGENT):
        return f"agent://{model.removeprefix(_AGENT)}"
    return f"model://{model}"
