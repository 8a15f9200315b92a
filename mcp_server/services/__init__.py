"""What a door may ask for: one module per domain, each method one operation on the engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcp_server.auth.keys import KeyService
    from mcp_server.services.agent_stats import AgentStatsService
    from mcp_server.services.agents import AgentService
    from mcp_server.services.batches import BatchService
    from mcp_server.services.changes import ChangeService
    from mcp_server.services.conversations import ConversationService
    from mcp_server.services.file_uploads import FileUploadService
    from mcp_server.services.files import FileService
    from mcp_server.services.idempotency import IdempotencyService
    from mcp_server.services.ingest import IngestService
    from mcp_server.services.kept_turns import TurnService
    from mcp_server.services.kv import KvService
    from mcp_server.services.media import MediaService
    from mcp_server.services.models import ModelService
    from mcp_server.services.objects import ObjectService
    from mcp_server.services.objects.links import LinkService
    from mcp_server.services.objects.uploads import UploadService
    from mcp_server.services.outside_tools import OutsideTools
    from mcp_server.services.responses import ResponseService
    from mcp_server.services.run_undo import RunUndoService
    from mcp_server.services.runs import RunService
    from mcp_server.services.schedules import ScheduleService
    from mcp_server.services.sql import SqlService
    from mcp_server.services.stored_chats import ChatService
    from mcp_server.services.traces import TraceService
    from mcp_server.services.triggers import TriggerService
    from mcp_server.services.undo import UndoService
    from mcp_server.services.units import UnitService
    from mcp_server.services.vector_stores.service import VectorStoreService
    from mcp_server.services.vectors import VectorService


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlServices:
    """The domains that live in the control database alone, or outside: all that the OpenAI face needs."""

    agents: AgentService
    agent_stats: AgentStatsService
    batches: BatchService
    chats: ChatService
    conversations: ConversationService
    idempotency: IdempotencyService
    keys: KeyService
    media: MediaService
    models: ModelService
    outside_tools: OutsideTools
    responses: ResponseService
    runs: RunService
    traces: TraceService
    turns: TurnService


@dataclass(frozen=True, slots=True, kw_only=True)
class Services(ControlServices):
    """Every domain, opened once per process."""

    changes: ChangeService
    file_uploads: FileUploadService
    files: FileService
    ingest: IngestService
    kv: KvService
    links: LinkService
    objects: ObjectService
    schedules: ScheduleService
    sql: SqlService
    triggers: TriggerService
    run_undo: RunUndoService
    undo: UndoService
    units: UnitService
    uploads: UploadService
    vector_stores: VectorStoreService
    vectors: VectorService
