"""Pure functions between the wire format and what models, tools and embedders speak; no I/O."""
