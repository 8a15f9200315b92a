"""The other proxies that chat is measured beside: each is started here, or said to be absent."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from measure import KEY, floor_command, free_port, running


@dataclass(frozen=True)
class Proxy:
    """A server that runs: its process, its port, and the part of the usual load that it can bear."""

    name: str
    pid: int
    port: int
    share: float = 1.0


Opening = Callable[[str, Path], AbstractAsyncContextManager[Proxy | None]]
"""Takes the URL of the upstream and a folder for scratch; gives None if it cannot be had."""

_NGINX = """
daemon off; master_process off; error_log stderr crit; pid {scratch}/nginx.pid;
events {{}}
http {{
  access_log off; keepalive_requests 1000000;
  client_body_temp_path {scratch}/body; proxy_temp_path {scratch}/proxy; fastcgi_temp_path {scratch}/fastcgi;
  uwsgi_temp_path {scratch}/uwsgi; scgi_temp_path {scratch}/scgi;
  upstream model {{ server {upstream}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""

_LITELLM = """
model_list:
  - model_name: m
    litellm_params: {{model: openai/m, api_base: "{upstream}/v1", api_key: none}}
"""
# Its own packages may be newer on the registry than what it names; without the second package every
# request compiles a module anew.
_LITELLM_PACKAGES = ("litellm[proxy]", "opentelemetry-sdk")
_LITELLM_OVERRIDES = "litellm-proxy-extras>=0.4\ncertifi\n"


@asynccontextmanager
async def bare(upstream: str, scratch: Path) -> AsyncGenerator[Proxy | None]:
    """Starlette and aiohttp, with nothing else."""
    del scratch
    port = free_port()
    async with running(floor_command("proxy", str(port), upstream), port) as pid:
        yield Proxy("bare Starlette + aiohttp", pid, port)


@asynccontextmanager
async def naive(upstream: str, scratch: Path) -> AsyncGenerator[Proxy | None]:
    """Starlette and the `openai` SDK, as one would write it first."""
    del scratch
    port = free_port()
    async with running(floor_command("sdk-proxy", str(port), upstream), port) as pid:
        yield Proxy("naive openai SDK proxy", pid, port, share=0.2)


@asynccontextmanager
async def nginx(upstream: str, scratch: Path) -> AsyncGenerator[Proxy | None]:
    """The Debian package: apt-get install nginx-light."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        print("nginx: absent (apt-get install nginx-light)")
        yield None
        return
    port, own = free_port(), scratch / "nginx"
    own.mkdir()
    host = upstream.partition("://")[2]
    written = own / "nginx.conf"
    written.write_text(_NGINX.format(scratch=own, upstream=host, port=port))
    command = [program, "-p", str(own), "-c", str(written), "-e", "stderr"]
    async with running(command, port) as pid:
        yield Proxy("nginx, unbuffered", pid, port)


@asynccontextmanager
async def litellm(upstream: str, scratch: Path) -> AsyncGenerator[Proxy | None]:
    """The proxy of LiteLLM, in an environment of its own: it needs other versions than ours."""
    own = scratch / "litellm"
    try:
        _install_litellm(own)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"LiteLLM: absent ({error})")
        yield None
        return
    port, written = free_port(), own / "config.yaml"
    written.write_text(_LITELLM.format(upstream=upstream))
    command = [
        *(str(own / ".venv" / "bin" / "litellm"), "--config", str(written)),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    environment = {
        "LITELLM_MASTER_KEY": KEY,  # it does not start without one
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it would fetch prices from elsewhere
        "LITELLM_LOG": "ERROR",
    }
    async with running(command, port, environment) as pid:
        yield Proxy("LiteLLM proxy", pid, port, share=0.1)


def _install_litellm(own: Path) -> None:
    def uv(*arguments: str) -> None:  # in its folder, where the pins of this project are not seen
        subprocess.run(["uv", *arguments, "--quiet"], cwd=own, check=True, timeout=600)

    own.mkdir()
    uv("venv", ".venv")
    (own / "overrides.txt").write_text(_LITELLM_OVERRIDES)
    # Named, since the environment that this runs in would be taken else.
    named = ("--python", ".venv", "--overrides", "overrides.txt")
    uv("pip", "install", *named, *_LITELLM_PACKAGES)


PROXIES: tuple[Opening, ...] = (bare, nginx, naive, litellm)
