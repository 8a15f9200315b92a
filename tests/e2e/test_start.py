"""What keeps the server from starting is told in one line, and what it prints when it starts."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.processes import ServeProcess, environment, postmaster_pid

START_SECONDS = 60
PLUGIN_HEAD = "from mcp_server.plugins import Call, prompt, resource, tool\n"


def run(
    data_dir: Path, *arguments: str, cwd: Path | None = None, **settings: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mcp_server", *arguments],
        env=environment(data_dir, **settings) | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        cwd=cwd,
    )


def refusal(done: subprocess.CompletedProcess[str], *, logged: bool = False) -> str:
    """Check the form of a refused start and return its one line."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1 or (logged and all(" INFO " in line for line in lines[:-1])), done.stderr
    assert lines[-1].startswith("isthmus"), done.stderr
    assert "Traceback" not in done.stderr
    return lines[-1]


# --- settings ----------------------------------------------------------------------------------

SETTINGS: dict[str, tuple[str, str]] = {
    "DATABASE_URL": ("nonsense", "postgresql://USER:PASSWORD@HOST:5432/DB"),
    "DATA_URL": ("mysql://localhost/x", "postgresql://"),
    "REDIS_URL": ("http://localhost", "redis://HOST:6379/0"),
    "OBJECTS_URL": ("file:///tmp", "s3://"),
    "VECTORS_URL": ("localhost:19530", "milvus://HOST:19530"),
    "LLM_URL": ("ftp://x", "http"),
    "EMBEDDINGS_URL": ("localhost", "http://127.0.0.1:11434/v1"),
    "PUBLIC_URL": ("//example.com", "http://"),
    "PORT": ("abc", "valid integer"),
    "API_KEY": ("short", "16 or more visible ASCII"),
    "SECRET_KEY": ("short", "32 or more bytes"),
    "RATE_LIMIT": ("many", "120/minute"),
    "AUTH": ("maybe", "'on' or 'off'"),
    "LOG_LEVEL": ("loud", "'warning'"),
    "MAX_BODY_BYTES": ("0", "greater than 0"),
    "SQL_CONNECTIONS": ("none", "valid integer"),
    "NO_SUCH_SETTING": ("1", "is not a setting"),
    "PASSWORD": ("x", "is not a setting"),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("command", ["serve", "stdio"])
def test_a_setting_that_does_not_fit(data_dir: Path, name: str, command: str) -> None:
    value, mend = SETTINGS[name]
    line = refusal(run(data_dir, command, cwd=None, **{name: value}))
    assert f"ISTHMUS_{name}" in line
    assert mend in line
    assert not data_dir.exists()


def test_a_file_with_a_setting_that_does_not_exist(data_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "isthmus.toml"
    file.write_text("prot = 8321\n", encoding="utf-8")
    assert "'prot' is not a setting" in refusal(run(data_dir, "serve", cwd=tmp_path))
    file.write_text("port = \n", encoding="utf-8")
    assert "not valid TOML" in refusal(run(data_dir, "--config", str(file), "serve"))
    assert "cannot be read" in refusal(run(data_dir, "serve", "--config", str(tmp_path / "none")))


USAGE = [[], ["nonsense"], ["serve", "--nope"], ["serve", "--port", "x"], ["serve", "--port", "99999"],
         ["serve", "--role", "boss"], ["keys"], ["stdio", "more"], ["serve", "--host"]]  # fmt: skip


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_a_command_line_that_does_not_fit(data_dir: Path, arguments: list[str]) -> None:
    refusal(run(data_dir, *arguments))


# --- what is taken, missing or closed ----------------------------------------------------------


def test_a_busy_port(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        line = refusal(run(data_dir, "serve", "--port", str(port)))
    assert f"ISTHMUS_PORT={port}" in line
    assert "--port" in line
    assert not data_dir.exists()


@pytest.mark.parametrize("host", ["not.a.host.invalid", "192.0.2.7", "::2"])
def test_an_address_that_is_not_ours(data_dir: Path, host: str) -> None:
    line = refusal(run(data_dir, "serve", "--host", host, "--port", "0", API_KEY="k" * 20))
    assert f"ISTHMUS_HOST={host}" in line


@pytest.mark.parametrize("command", ["serve", "stdio"])
def test_a_data_directory_that_cannot_be_written(tmp_path: Path, command: str) -> None:
    file = tmp_path / "file"
    file.write_text("here first", encoding="utf-8")
    places = [file, file / "below", Path("/proc/isthmus")]
    if os.geteuid() != 0:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        places.append(closed / "data")
    for place in places:
        line = refusal(run(place, command))
        assert f"ISTHMUS_DATA_DIR={place}" in line
        assert "choose a directory" in line
    assert file.read_text(encoding="utf-8") == "here first"


def test_a_database_that_does_not_answer(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    url = f"postgresql://u:secret-word@127.0.0.1:{port}/x"
    line = refusal(run(data_dir, "serve", "--port", "0", DATABASE_URL=url))
    assert "ISTHMUS_DATABASE_URL" in line
    assert "secret-word" not in line


@pytest.mark.parametrize("url", ["scripted:/no/such/file.yaml", "gguf:/no/such/file.gguf"])
def test_a_model_that_is_not_there(data_dir: Path, url: str) -> None:
    line = refusal(run(data_dir, "serve", "--port", "0", LLM_URL=url))
    assert "ISTHMUS_LLM_URL" in line
    assert "/no/such/file" in line
    assert postmaster_pid(data_dir) is None


def test_a_missing_extra(data_dir: Path, tmp_path: Path) -> None:
    """A module that fails to import stands for one that is not installed, as it may be here."""
    (tmp_path / "redis.py").write_text("raise ImportError('not here')\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mcp_server", "serve", "--port", "0"],
        env=environment(data_dir, REDIS_URL="redis://127.0.0.1:1/0")
        | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )
    line = refusal(done)
    assert "ISTHMUS_REDIS_URL" in line
    assert "isthmus[redis]" in line


# --- what nobody guards ------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_without_authentication_it_stays_on_this_machine(data_dir: Path, host: str) -> None:
    line = refusal(run(data_dir, "serve", "--host", host, "--port", "0", AUTH="off"))
    assert "ISTHMUS_AUTH=off" in line
    assert "127.0.0.1" in line


def test_without_a_key_it_stays_on_this_machine(data_dir: Path) -> None:
    done = run(data_dir, "serve", "--host", "0.0.0.0", "--port", "0")
    line = refusal(done, logged=True)
    assert "ISTHMUS_API_KEY" in line
    assert "isthmus keys create" in line
    assert postmaster_pid(data_dir) is None


# --- plugins -----------------------------------------------------------------------------------

BROKEN: dict[str, tuple[str, str, str]] = {
    "syntax": ("tools", "def (", "SyntaxError"),
    "import": ("tools", "import nothing_there", "ModuleNotFoundError"),
    "two lines": ("tools", "raise RuntimeError('one\\ntwo')", "one two"),
    "exit": ("tools", "import sys; sys.exit(0)", "SystemExit"),
    "not async": ("tools", "@tool()\ndef f() -> int: return 1", "async def"),
    "no parentheses": ("tools", "@tool\nasync def f() -> int: return 1", "@tool()"),
    "unknown verb": ("tools", "@tool(verb='fly')\nasync def f() -> int: return 1", "'fly'"),
    "unknown type": ("tools", "@tool()\nasync def f(a: 'Nowhere') -> int: return 1", "Nowhere"),
    "no schema": ("tools", "class X: ...\n@tool()\nasync def f(a: X) -> int: return 1", "JsonSchema"),
    "any arguments": ("tools", "@tool()\nasync def f(*all) -> int: return 1", "*all"),
    "taken name": ("tools", "@tool(name='kv_get')\nasync def f() -> int: return 1", "'kv_get'"),
    "other variables": ("resources", "@resource('x://{a}')\nasync def f(b: str) -> str: return b", "x://{a}"),
    "half a template": ("resources", "@resource('x://{a')\nasync def f(a: str) -> str: return a", "position"),
    "resource not async": ("resources", "@resource('x://{a}')\ndef f(a: str) -> str: return a", "async def"),
    "prompt not async": ("prompts", "@prompt()\ndef f(a: str) -> str: return a", "async def"),
    "setup not async": ("tools", "def setup(server): ...", "setup is not an async function"),
    "setup fails": ("tools", "async def setup(server): raise RuntimeError('x')", "setup: RuntimeError: x"),
    "a tool without a verb": ("tools", "async def f() -> str: return ''\nasync def setup(server): server.add_tool(f, name='wild')",
                              "tool 'wild' declares no verb"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin(data_dir: Path, tmp_path: Path, case: str) -> None:
    kind, source, said = BROKEN[case]
    file = tmp_path / "mine" / kind / "broken.py"
    file.parent.mkdir(parents=True)
    file.write_text(PLUGIN_HEAD + source + "\n", encoding="utf-8")
    folder = str(tmp_path / "mine")
    done = run(data_dir, "serve", "--port", "0", "--plugins", folder)
    # What a plugin registers by itself is known only when the engines are open.
    line = refusal(done, logged="server.add_tool" in source or "def setup" in source)
    assert said in line
    assert case in {"taken name", "a tool without a verb"} or str(file) in line
    assert postmaster_pid(data_dir) is None


def test_a_plugin_folder_that_is_not_there(data_dir: Path) -> None:
    assert "/no/such/folder" in refusal(run(data_dir, "serve", "--plugins", "/no/such/folder"))
    assert "/no/such/folder" in refusal(run(data_dir, "stdio", PLUGINS="/no/such/folder"))


# --- what it prints ----------------------------------------------------------------------------


def printed(data_dir: Path, *arguments: str, **settings: str) -> list[str]:
    server = ServeProcess(data_dir, 0, *arguments, **settings)
    try:
        server.wait_ready()
    finally:
        assert server.stop() == 0
    assert not any("API key" in line or "sk-isth" in line for line in server.errors)
    return server.output


def test_the_admin_key_is_printed_once_on_the_very_first_start(data_dir: Path) -> None:
    first = printed(data_dir)
    assert len(first) == 2
    assert re.fullmatch(r"API key: sk-isth-[\w-]{43}", first[0])
    ready = re.fullmatch(r"Isthmus is ready at http://127\.0\.0\.1:(\d+)", first[1])
    assert ready is not None
    assert int(ready[1]) > 0
    second = printed(data_dir)
    assert [line.split(" at ")[0] for line in second] == ["Isthmus is ready"]


@pytest.mark.parametrize("settings", [{"AUTH": "off"}, {"API_KEY": "k" * 20}])
def test_no_key_is_made_where_none_is_needed(data_dir: Path, settings: dict[str, str]) -> None:
    assert len(printed(data_dir, **settings)) == 1
    # Then none exists, and a later start without that setting is the first to need one.
    assert printed(data_dir)[0].startswith("API key: ")


def test_a_key_of_the_operators_own_making_is_enough(data_dir: Path) -> None:
    made = run(data_dir, "keys", "create", "mine")
    assert made.returncode == 0, made
    assert len(printed(data_dir)) == 1
    beyond = ServeProcess(data_dir, 0, "--host", "0.0.0.0")
    try:
        assert beyond.wait_ready().startswith("http://0.0.0.0:")
    finally:
        assert beyond.stop() == 0
