"""The stack's files: valid, and as closed as they can be."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcp_server.facade_runtime import check_facade_settings
from mcp_server.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "Dockerfile"
ENGINES = {"postgres", "valkey", "s3", "milvus"}
ROLES = {"facade", "mcp", "worker"}
# compose-lint's findings that stay, each with its reason.
ACCEPTED = {
    # Digests cannot be looked up or verified without a registry; every tag names one exact release.
    "CL-0019": {"facade", "mcp", "worker", "nginx", *ENGINES},
    # Nobody says what Milvus writes outside its volume, and no engine ran to find out.
    "CL-0007": {"milvus"},
}


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return compose["services"]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `deploy/secrets.sh` makes."""
    folder = tmp_path_factory.mktemp("stack") / "secrets"
    subprocess.run(["sh", str(ROOT / "deploy" / "secrets.sh"), str(folder)], check=True)
    return folder


def test_the_compose_file_fits_the_specification() -> None:
    checked = subprocess.run(
        [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE)],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_schema_finds_a_misspelt_key(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text(encoding="utf-8").replace("healthcheck:", "healthchek:"))
    checked = subprocess.run(
        [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(wrong)],
        capture_output=True,
    )
    assert checked.returncode == 1


def test_the_linter_finds_only_what_is_accepted() -> None:
    linted = subprocess.run(
        [tool("compose-lint"), "check", "--format", "json", "--fail-on", "low", str(COMPOSE)],
        capture_output=True,
        text=True,
    )
    found: dict[str, set[str]] = {}
    for finding in yaml.safe_load(linted.stdout)["findings"]:
        found.setdefault(finding["rule_id"], set()).add(finding["service"])
    assert found == ACCEPTED


def test_only_nginx_is_published_and_on_loopback_unless_told(
    services: dict[str, dict[str, Any]],
) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"nginx": ["${BIND_ADDRESS:-127.0.0.1}:${HTTP_PORT:-8080}:8080"]}
    assert not [name for name, service in services.items() if "network_mode" in service]


def test_engines_are_on_a_network_without_a_way_out(
    compose: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    assert compose["networks"]["engines"] == {"internal": True}
    for name in ENGINES - {"s3"}:
        assert services[name]["networks"] == ["engines"], name
    assert services["nginx"]["networks"] == ["edge"]


def test_every_service_is_restarted_bounded_and_without_privileges(
    services: dict[str, dict[str, Any]],
) -> None:
    assert set(services) == {"nginx"} | ENGINES | ROLES
    for name, service in services.items():
        assert service["restart"] == "unless-stopped", name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert not service.get("privileged"), name
        assert service["logging"]["options"]["max-size"], name
        assert {"cpus", "memory", "pids"} == set(service["deploy"]["resources"]["limits"]), name
        assert service.get("read_only") is (True if name != "milvus" else None), name
        assert re.fullmatch(r"[\w./-]+:[\w.-]+", service["image"]), name
        assert not service["image"].endswith(":latest"), name


def test_every_service_says_whether_it_is_well_and_waits_for_what_it_needs(
    services: dict[str, dict[str, Any]],
) -> None:
    healthy = {"condition": "service_healthy"}
    for name in ROLES:
        assert services[name]["depends_on"] == dict.fromkeys(ENGINES, healthy), name
    assert services["nginx"]["depends_on"] == dict.fromkeys(("facade", "mcp"), healthy)
    for name in ENGINES | {"nginx"}:
        assert services[name]["healthcheck"]["test"][0].startswith("CMD"), name
    # facade and mcp have the image's; a worker has no port to ask.
    assert services["worker"]["healthcheck"] == {"disable": True}


def test_the_roles_are_commands_that_exist(services: dict[str, dict[str, Any]]) -> None:
    from mcp_server.cli import _parser

    for name in ROLES:
        _parser().parse_args(services[name]["command"])
        given = services[name]["environment"]
        known = {f"ISTHMUS_{setting.upper()}" for setting in Settings.model_fields}
        assert set(given) <= known, name
        assert services[name]["build"] == ".", name


def test_postgresql_keeps_its_data_where_the_image_does(
    services: dict[str, dict[str, Any]],
) -> None:
    image, volumes = services["postgres"]["image"], services["postgres"]["volumes"]
    assert "-pg18" in image
    assert "postgres:/var/lib/postgresql" in volumes


def test_the_port_of_milvus_that_asks_for_no_password_is_nowhere_published() -> None:
    assert "9091:9091" not in COMPOSE.read_text(encoding="utf-8")


def test_no_secret_stands_in_the_files_and_each_is_required(compose: dict[str, Any]) -> None:
    for name, secret in compose["secrets"].items():
        assert secret["file"] == f"${{SECRETS_DIR:?run sh deploy/secrets.sh first}}/{name}"
    for path in (COMPOSE, ROOT / ".env.example", *sorted((ROOT / "deploy").iterdir())):
        assert not re.search(r"\b[0-9a-f]{24,}\b", path.read_text(encoding="utf-8")), path
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"/secrets/", "/.env"} <= set(ignored)


def test_every_variable_of_the_compose_file_is_in_the_example() -> None:
    used = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text(encoding="utf-8")))
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    assert {line.partition("=")[0] for line in lines if re.match(r"\w+=", line)} == used


def test_the_secrets_are_what_the_services_take(compose: dict[str, Any], secrets: Path) -> None:
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert set(compose["secrets"]) <= {path.name for path in secrets.iterdir()}
    for path in secrets.iterdir():
        # Containers read them under users of their own; the folder is what is closed.
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, path.name
    passwords = [path.read_text() for path in secrets.glob("*_password")]
    assert len(set(passwords)) == len(passwords) == 6
    assert all(re.fullmatch(r"[0-9a-f]{48}", password) for password in passwords)


def test_the_servers_take_the_configuration_that_is_made(secrets: Path) -> None:
    settings = load_settings(secrets / "isthmus.toml")
    given = tomllib.loads((secrets / "isthmus.toml").read_text())
    assert {name: getattr(settings, name) for name in given} == given
    for name in ("control", "data", "valkey", "s3", "milvus"):
        password = (secrets / f"{name}_password").read_text()
        assert sum(password in value for value in given.values()) == 1, name


def test_the_facade_holds_no_credentials_of_data(
    services: dict[str, dict[str, Any]], secrets: Path
) -> None:
    facade = services["facade"]
    assert [secret["source"] for secret in facade["secrets"]] == ["facade.toml"]
    whole = tomllib.loads((secrets / "isthmus.toml").read_text())
    given = tomllib.loads((secrets / "facade.toml").read_text())
    assert set(given) == {"api_key", "pass_key", "database_url", "redis_url"}
    assert given == {name: whole[name] for name in given}
    url = facade["environment"]["ISTHMUS_MCP_URL"]
    assert whole["pass_key"] != whole["secret_key"]
    settings = load_settings(secrets / "facade.toml", mcp_url=url)
    assert check_facade_settings(settings) == (url, given["database_url"])
    others = {
        name for name in services if "ISTHMUS_MCP_URL" in services[name].get("environment", ())
    }
    assert others == {"facade"}
    # Who listens there must take the name that the facade asks for.
    assert services["mcp"]["environment"]["ISTHMUS_ALLOWED_HOSTS"].split(",")[0] == "mcp"


def test_secrets_that_exist_are_kept(secrets: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    subprocess.run(["sh", str(ROOT / "deploy" / "secrets.sh"), str(secrets)], check=True)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before


def test_the_linter_finds_nothing_in_the_dockerfile() -> None:
    linted = subprocess.run(
        [tool("hadolint"), "--failure-threshold", "style", str(DOCKERFILE)],
        capture_output=True,
        text=True,
    )
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_image_is_pinned_hashed_and_runs_as_nobody_special() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*", base), base
    final = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert "HEALTHCHECK" in final
    assert "uv" not in re.findall(r"COPY --from=(\w+)", final), "the final image holds no installer"
    for command in re.findall(r"uv pip install(?:[^\n]|\\\n)*", text):
        assert "constraint requirements.lock" in command, command
    assert not re.search(r"(?i)(password|secret|token|api_key)\s*=", text)


def test_the_image_is_built_from_sources_alone() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {line[1:] for line in rules if line.startswith("!")}
    copied = {
        part
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
        for part in line.split()
    }
    assert copied == allowed
