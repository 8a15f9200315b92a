"""The composition of role `openai`: models, the control database, and a bus to the tools of another process."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from mcp_server.auth.passes import Passes
from mcp_server.auth.principal import OWNER
from mcp_server.bus import Bus
from mcp_server.bus_over_http import OverHttp, open_link
from mcp_server.control import open_control_parts, open_control_services
from mcp_server.control_engines import ControlEngines, open_control_engines
from mcp_server.errors import ConfigurationError
from mcp_server.files_over_bus import FilesOverBus
from mcp_server.health import Check
from mcp_server.operation import Operations
from mcp_server.runs.stores import Stores
from mcp_server.secret import pass_secret
from mcp_server.services import ControlServices
from mcp_server.settings import Settings

_NEEDED = {
    "mcp_url": "the address of /mcp of a server with --role mcp, where its tools are",
    "database_url": "the control database of the deployment",
}
_OF_DATA = ("data_url", "objects_url", "vectors_url", "databases", "buckets")


@dataclass(frozen=True, slots=True, kw_only=True)
class FacadeRuntime:
    """Everything that is open while a process serves the OpenAI face alone."""

    settings: Settings
    engines: ControlEngines
    operations: Operations
    services: ControlServices
    stores: Stores
    bus: Bus


@asynccontextmanager
async def open_facade_runtime(settings: Settings) -> AsyncGenerator[FacadeRuntime]:
    """Open what the OpenAI face needs, no data engine, and close it in reverse order.

    Raises:
        ConfigurationError: a setting is missing, or holds credentials of data; an engine does not open.
    """
    url, database_url = check_facade_settings(settings)
    async with (
        open_link(url, Passes(pass_secret(settings))) as link,
        open_control_engines(settings, database_url) as opened,
        open_control_parts(settings, opened) as parts,
    ):
        bus = Bus(link)
        async with open_control_services(parts, bus.list_tools, FilesOverBus(bus)) as services:
            yield FacadeRuntime(
                settings=settings,
                engines=replace(opened, checks=opened.checks | {"mcp": _tools_answer(link)}),
                operations=parts.operations,
                services=services,
                stores=parts.stores,
                bus=bus,
            )


def check_facade_settings(settings: Settings) -> tuple[str, str]:
    """Return the address of the tools and the URL of the control database.

    Raises:
        ConfigurationError: one is missing, or a setting would bring credentials of data with it.
    """
    for name, what in _NEEDED.items():
        if not getattr(settings, name):
            raise ConfigurationError(f"--role openai: set ISTHMUS_{name.upper()}, {what}")
    if not (settings.pass_key or settings.secret_key):
        raise ConfigurationError(
            "--role openai: set ISTHMUS_PASS_KEY, the secret that the passes of the deployment are signed "
            "with; ISTHMUS_SECRET_KEY does as well, but from that the tenants' SQL passwords derive"
        )
    for name in _OF_DATA:
        if getattr(settings, name):
            raise ConfigurationError(
                f"--role openai: unset ISTHMUS_{name.upper()}; this role reaches data through the server "
                "at ISTHMUS_MCP_URL only, and holds no credentials of it"
            )
    return str(settings.mcp_url), str(settings.database_url)


def _tools_answer(link: OverHttp) -> Check:
    async def answer() -> str:
        return f"{len(await link.tools(OWNER))} tools"

    return answer
