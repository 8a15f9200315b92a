"""What a schedule or trigger starts: as data, checked when it is saved, and decided again at each fire."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server import policy
from mcp_server.agents.work import read_conversation
from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, InvalidInput
from mcp_server.operation import Operation, Operations
from mcp_server.policy import Verb
from mcp_server.runs.record import Run, new_run_id
from mcp_server.runs.standing import Owner, Standing, Stop
from mcp_server.services.agent_bounds import check_started, check_started_tool
from mcp_server.services.agent_rows import agent_uri, find_agent, is_paused
from mcp_server.services.agent_starts import begin_with
from mcp_server.services.grants import intersect
from mcp_server.services.run_results import TOOL_KIND
from mcp_server.services.run_terms import RunTerms, columns
from mcp_server.storage.sql.schema import encode_json

MAX_WORK_BYTES = 1024 * 1024
_NO_CHANGES: dict[str, Any] = {"count": 0, "after": "0.0", "changes": []}


class LongTool(Protocol):
    """A tool that can be started as a run, as far as it is declared."""

    verb: Verb
    egress: bool

    def check(self, arguments: dict[str, Any]) -> object:
        """Return if the arguments fit.

        Raises:
            InvalidInput: they do not.
        """
        ...


LongTools: TypeAlias = Callable[[str], LongTool | None]
"""Return the long tool of a name, None if there is none."""


class _Job(BaseModel):
    """What all have: on what terms each run is started."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    retries: int = 0
    timeout_seconds: float | None = None
    priority: int = 0

    def terms(self) -> RunTerms:
        return RunTerms(
            retries=self.retries, timeout_seconds=self.timeout_seconds, priority=self.priority
        )


class AgentJob(_Job):
    """Run an agent, as it is defined at that moment, on an input: a text or chat messages."""

    agent: str
    input: str | list[dict[str, Any]] | None = None
    options: dict[str, Any] = Field(default={})
    variables: dict[str, str] = Field(default={})


class ToolJob(_Job):
    """Call a tool; `changes_as` is the name of the argument that gets what a trigger saw."""

    tool: str = Field(min_length=1, max_length=128)
    arguments: dict[str, Any] = Field(default={})
    changes_as: str | None = Field(default=None, min_length=1, max_length=128)


Job: TypeAlias = AgentJob | ToolJob


def parse_work(given: Mapping[str, Any]) -> Job:
    """Read a work: `{agent, input, options, variables}` or `{tool, arguments}`, each with `retries`, `timeout_seconds`, `priority`.

    Raises:
        InvalidInput: a field does not fit, or it is longer than 1 MiB of JSON.
    """
    if ("agent" in given) == ("tool" in given):
        raise InvalidInput("work: give either agent or tool", param="work")
    kind: type[Job] = AgentJob if "agent" in given else ToolJob
    try:
        work = kind.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        field = "work." + ".".join(str(part) for part in first["loc"])
        raise InvalidInput(
            f"{field}: {first['msg']}; the fields are {', '.join(kind.model_fields)}", param="work"
        ) from error
    # Not pydantic's own JSON: it would turn NaN into null.
    if len(encode_json(work.model_dump())) > MAX_WORK_BYTES:
        raise InvalidInput(
            f"work: it is longer than the {MAX_WORK_BYTES} bytes of JSON allowed; store what is long "
            "as an object and give its key",
            param="work",
        )
    return work


@dataclass(frozen=True, slots=True)
class OwnerRights:
    """What an owner may do at this moment: grant ∩ the scopes of its key now."""

    principal: Principal

    def may_read(self, uri: str, labels: Sequence[str]) -> bool:
        return policy.allows(self.principal, "read", policy.journalled(uri, labels))


@dataclass(frozen=True, slots=True)
class WorkStarter:
    """Decides what may be started, and makes the run of it."""

    operation: Operations
    long_tools: LongTools
    ttl_of: Callable[[str], float | None] = lambda _: None

    async def check_save(
        self, tx: AsyncConnection, op: Operation, work: Job, *, changes: bool
    ) -> None:
        """Return if the caller of `op` may save this work; `changes` tells whether it gets a trigger's.

        Raises:
            InvalidInput: something does not fit or is not there. Forbidden: the right is missing.
        """
        principal = op.principal
        verb, uri, _ = self._target(work)
        policy.require(principal, verb, uri)
        columns(principal, uri, work.terms())
        if isinstance(work, ToolJob):
            if work.changes_as is not None and not changes:
                raise InvalidInput(
                    "work.changes_as: a schedule sees no changes; leave it out", param="work"
                )
            self._tool(work).check(_arguments(work, _NO_CHANGES))
            await check_started_tool(tx, op, work.tool)
            return
        found = await find_agent(tx, principal.tenant, work.agent)
        if found is None:
            raise InvalidInput(f"work.agent: {work.agent!r} does not exist", param="work")
        begin_with(found, [], work.options, work.variables)
        if work.input is not None or not changes:
            read_conversation(work.input)
        await check_started(tx, op, found)

    def rights(self, owner: Owner, scopes: frozenset[str]) -> OwnerRights:
        """Return the rights of an owner whose key has these scopes now."""
        grant = Principal(owner.tenant, owner.subject, owner.grant, owner.key_id)
        return OwnerRights(replace(grant, scopes=intersect(owner.grant, scopes)))

    def check(self, standing: Standing, scopes: frozenset[str]) -> None:
        """Return if the owner may start it now.

        Raises:
            Stop: not so.
        """
        try:
            verb, uri, _ = self._target(parse_work(standing.work))
            policy.require(self.rights(standing.owner, scopes).principal, verb, uri)
        except AppError as error:
            raise Stop(error.message) from error

    async def prepare(
        self,
        tx: AsyncConnection,
        standing: Standing,
        scopes: frozenset[str],
        changes: dict[str, Any] | None,
    ) -> Run | None:
        """Return the run to start, with what its agent is defined as now; None while the agent is paused.

        Raises:
            Stop: the owner may not start it now, or it is not there.
        """
        principal = self.rights(standing.owner, scopes).principal
        try:
            work = parse_work(standing.work)
            verb, uri, egress = self._target(work)
            if isinstance(work, AgentJob) and await is_paused(tx, principal.tenant, work.agent):
                return None
            async with self.operation(principal, verb, uri, egress=egress):
                terms = columns(principal, uri, work.terms())
                fields = await self._fields(tx, principal, work, changes, standing.name)
        except AppError as error:
            if error.retryable:  # the database went away: that is no reason to stop for good
                raise
            raise Stop(error.message) from error
        terms["ttl_seconds"] = self.ttl_of(fields["kind"])
        return Run(
            id=new_run_id(),
            tenant=principal.tenant,
            subject=principal.subject,
            key_id=principal.key_id,
            grant=principal.scopes,
            **terms,
            **fields,
        )

    async def _fields(
        self,
        tx: AsyncConnection,
        principal: Principal,
        work: Job,
        changes: dict[str, Any] | None,
        name: str,
    ) -> dict[str, Any]:
        if isinstance(work, ToolJob):
            return {
                "kind": f"{TOOL_KIND}{work.tool}",
                "definition": {"verb": self._tool(work).verb},
                "input": {"arguments": _arguments(work, changes)},
            }
        definition = await find_agent(tx, principal.tenant, work.agent)
        if definition is None:
            raise InvalidInput(f"agent {work.agent!r} does not exist any more")
        messages = [] if work.input is None else read_conversation(work.input)
        if changes is not None:
            told = json.dumps({"trigger": name, **changes}, ensure_ascii=False)
            messages = [*messages, {"role": "user", "content": told}]
        given = begin_with(definition, messages, work.options, work.variables)
        return {"kind": "agent", "agent": work.agent, **given}

    def _target(self, work: Job) -> tuple[Verb, str, bool]:
        """Return what policy is asked for, and whether it sends data out."""
        if isinstance(work, AgentJob):
            return "run", agent_uri(work.agent), False
        tool = self._tool(work)
        return tool.verb, f"tool://{work.tool}", tool.egress

    def _tool(self, work: ToolJob) -> LongTool:
        tool = self.long_tools(work.tool)
        if tool is None:
            raise InvalidInput(
                f"work.tool: {work.tool!r} is none of the tools that are declared long",
                param="work",
            )
        return tool


def _arguments(work: ToolJob, changes: dict[str, Any] | None) -> dict[str, Any]:
    if work.changes_as is None:
        return work.arguments
    return work.arguments | {work.changes_as: changes}
