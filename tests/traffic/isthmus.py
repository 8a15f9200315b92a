"""The `isthmus` command as tests start it: `python -m tests.traffic.isthmus serve ...`.

It is the command itself; what goes by under /v1 is recorded in the folder that the environment names.
"""

from __future__ import annotations

import os
from pathlib import Path

from mcp_server.cli import main
from mcp_server.doors import DeclaredRoute
from tests.traffic.recording import FOLDER, Recorder, into

if __name__ == "__main__":
    folder = os.environ.get(FOLDER)
    if folder is not None:
        DeclaredRoute.handle = Recorder(into(Path(folder))).method()  # pyright: ignore[reportAttributeAccessIssue]
    main()
