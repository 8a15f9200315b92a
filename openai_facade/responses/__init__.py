"""Responses: what a request goes on from, its tools, and the engine that answers it, for any door."""
