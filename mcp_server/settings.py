"""The settings: one frozen object, read once from the command line, the environment and a TOML file."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import platformdirs
from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from mcp_server.errors import ConfigurationError
from mcp_server.settings_models import Models, ModelSetting, Upstreams, UpstreamSetting
from mcp_server.settings_sql_tools import SqlTools, SqlToolSetting
from mcp_server.settings_tracing import Tracing, tracing_of
from mcp_server.settings_values import (
    MOST_DAYS,
    CommaList,
    Databases,
    Days,
    FieldNames,
    PathList,
    RunDays,
    check_rate,
    check_url,
)

PREFIX = "ISTHMUS_"
CONFIG_FILE = "isthmus.toml"
# The schemes of each URL, and what to give.
_HTTP = (("http", "https"), "http://127.0.0.1:11434/v1")
_POSTGRESQL = (("postgresql", "postgres"), "postgresql://USER:PASSWORD@HOST:5432/DB")
_URLS = {
    "database_url": _POSTGRESQL,
    "data_url": _POSTGRESQL,
    "redis_url": (("redis", "rediss"), "redis://HOST:6379/0"),
    "objects_url": (("s3",), "s3://KEY:SECRET@HOST:9000/BUCKET?secure=false"),
    "objects_public_url": (("http", "https"), "https://objects.example.com"),
    "vectors_url": (("milvus",), "milvus://HOST:19530"),
    "embeddings_url": _HTTP,
    "mcp_url": _HTTP,
    "public_url": _HTTP,
}


def default_data_dir() -> Path:
    """The platform's user data directory; the system's state directory for root."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/isthmus")
    return Path(platformdirs.user_data_dir("isthmus"))


class Settings(BaseSettings):
    """Every setting of the contract, in lower case. Unset means embedded or off."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True
    )

    data_dir: Path = Field(default_factory=default_data_dir)
    host: str = "127.0.0.1"
    port: int = Field(default=8321, ge=0, le=65535)
    api_key: str | None = None
    auth: Literal["on", "off"] = "on"
    secret_key: str | None = None
    # What processes of one deployment sign their passes with; unset, SECRET_KEY serves for that too.
    pass_key: str | None = None
    public_url: str | None = None
    allowed_hosts: CommaList = ()
    allowed_origins: CommaList = ()
    plugins: PathList = ()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    rate_limit: str | None = None
    max_body_bytes: int = Field(default=32 * 1024 * 1024, gt=0)
    sql_connections: int = Field(default=32, ge=1)
    sql_timeout_seconds: float = Field(default=30.0, gt=0, le=86_400)
    run_ttl_days: Days = RunDays()
    run_redact: FieldNames = ("password", "secret", "token", "api_key", "authorization")
    run_concurrency: int = Field(default=8, ge=1, le=256)
    # How long what was overwritten or deleted can be brought back; 0 keeps nothing.
    undo_days: float = Field(default=7.0, ge=0, le=MOST_DAYS)
    # How long `changes` can go back.
    journal_days: float = Field(default=90.0, ge=1, le=MOST_DAYS)
    max_object_bytes: int = Field(default=64 * 1024**3, gt=0)
    # Hosts, HOST:PORT or networks that URLs given by callers may reach though they are not public.
    fetch_allow: CommaList = ()
    databases: Databases = ()
    # Tools that are a statement of the operator's: [sql_tools.NAME] in the TOML file.
    sql_tools: SqlTools = Field(default_factory=dict[str, SqlToolSetting])
    buckets: CommaList = ()
    mcp_url: str | None = None
    database_url: str | None = None
    data_url: str | None = None
    redis_url: str | None = None
    objects_url: str | None = None
    # How clients reach the object store themselves, for links; unset, links go through this server.
    objects_public_url: str | None = None
    vectors_url: str | None = None
    llm_url: CommaList = ()
    llm_model: str | None = None
    llm_api_key: str | None = None
    # Upstreams with terms of their own, and models made of them: [upstreams.NAME] and [models.NAME].
    upstreams: Upstreams = Field(default_factory=dict[str, UpstreamSetting])
    models: Models = Field(default_factory=dict[str, ModelSetting])
    # Model ids whose chats may use this server's own tools without asking for them; `*` is every model.
    chat_tools_models: CommaList = ()
    embeddings_url: str | None = None
    embeddings_model: str | None = None
    embeddings_api_key: str | None = None

    @field_validator("auth", "log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        if isinstance(value, bool):  # TOML's `auth = true`
            return "on" if value else "off"
        return value.lower() if isinstance(value, str) else value

    @field_validator("api_key")
    @classmethod
    def _visible_key(cls, value: str | None) -> str | None:
        if value is not None and (len(value) < 16 or not all("!" <= char <= "~" for char in value)):
            raise ValueError("give 16 or more visible ASCII characters")
        return value

    @field_validator("secret_key", "pass_key")
    @classmethod
    def _long_secret(cls, value: str | None) -> str | None:
        if value is not None and len(value.encode()) < 32:
            raise ValueError("give 32 or more bytes, for example from `openssl rand -hex 32`")
        return value

    @field_validator("rate_limit")
    @classmethod
    def _rate(cls, value: str | None) -> str | None:
        return None if value is None else check_rate(value)

    @field_validator(*_URLS)
    @classmethod
    def _check_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        return check_url(value, *_URLS[str(info.field_name)])

    @field_validator("llm_url")
    @classmethod
    def _llm(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            scheme = item.partition(":")[0]
            if scheme in {"http", "https"}:
                check_url(item, *_HTTP)
            elif scheme not in {"scripted", "gguf"} or ":" not in item:
                raise ValueError(
                    f"{item!r} is not http(s)://…/v1, scripted:, scripted:FILE or gguf:FILE"
                )
        return value

    @property
    def tracing(self) -> Tracing | None:
        """Whether spans are sent: OpenTelemetry's own variables say so, the same for every program."""
        return tracing_of(os.environ)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, InitSettingsSource(settings_cls, _file.get(None, {}))


# The TOML values of the load in progress: pydantic-settings builds its sources per class, not per
# call. Loading is done once, before anything runs concurrently.
_file: dict[None, dict[str, Any]] = {}


def load_settings(config: Path | None = None, **overrides: object) -> Settings:
    """Read the settings; `overrides` are the command line's and win over everything.

    Raises:
        ConfigurationError: an unknown key, or a value that does not fit; names the key and the mend.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    _refuse_unknown_environment(os.environ)
    _file[None] = _read_file(config, given)
    try:
        return Settings(**given)  # pyright: ignore[reportArgumentType]
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from error
    finally:
        _file.clear()


def _refuse_unknown_environment(environment: Mapping[str, str]) -> None:
    for name in environment:
        if name.startswith(PREFIX) and name[len(PREFIX) :].lower() not in Settings.model_fields:
            raise ConfigurationError(
                f"{name} is not a setting of Isthmus; unset it or correct its name"
            )


def _read_file(config: Path | None, given: Mapping[str, object]) -> dict[str, Any]:
    if config is not None:
        candidates = [config]
    else:
        data_dir = (
            given.get("data_dir") or os.environ.get(f"{PREFIX}DATA_DIR") or default_data_dir()
        )
        candidates = [Path(CONFIG_FILE), Path(str(data_dir)) / CONFIG_FILE]
    for path in candidates:
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            if config is None:
                continue
            raise ConfigurationError(f"--config {path}: the file cannot be read") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path}: the file cannot be read ({error})") from None
        return _parse(path, text)
    return {}


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not valid TOML ({error})") from None
    for name in values:
        if name not in Settings.model_fields:
            raise ConfigurationError(
                f"{path}: {name!r} is not a setting of Isthmus; correct its name"
            )
    return values


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    reason = first["msg"].removeprefix("Value error, ")
    return f"{PREFIX}{name.upper()}: {reason[:1].lower()}{reason[1:]}"
