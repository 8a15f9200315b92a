"""What a worker needs of the control database, in one hand."""

from __future__ import annotations

from dataclasses import dataclass

from mcp_server.runs.events import RunEvents
from mcp_server.runs.leases import Leases
from mcp_server.runs.queue import RunQueue
from mcp_server.runs.steps import RunSteps
from mcp_server.runs.sweep import Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """`heartbeat` renews the lease on a connection of its own; `leases` is for everything else."""

    queue: RunQueue
    events: RunEvents
    steps: RunSteps
    leases: Leases
    heartbeat: Leases
    sweep: Sweep
