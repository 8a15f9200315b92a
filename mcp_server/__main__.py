"""`python -m mcp_server` is the `isthmus` command."""

from __future__ import annotations

from mcp_server.cli import main

if __name__ == "__main__":
    main()
