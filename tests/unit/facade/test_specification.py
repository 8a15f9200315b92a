"""What is said of OpenAI's endpoints is what the routes are, and what OpenAI's document has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jsonschema_rs
import pytest

from openai_facade import app
from openai_facade.specification.document import openapi_document
from openai_facade.specification.support import (
    declared_endpoints,
    key_of,
    openai_operations,
    openai_parameters,
    support,
)

ROOT = Path(__file__).parents[3]
OPERATIONS = {key_of(method, path): (path, told) for method, path, told in openai_operations()}


def test_each_route_has_a_section_and_each_section_a_route() -> None:
    facade = cast("Any", SimpleNamespace(ping_seconds=15.0))
    assert set(declared_endpoints(app.routes(facade)[:-2])) == set(support())


@pytest.mark.parametrize("key", support(), ids=" ".join)
def test_a_section_tells_of_each_parameter_once(key: tuple[str, str]) -> None:
    path, operation = OPERATIONS[key]
    assert support()[key].path == path
    assert sorted(support()[key].parameters) == sorted(openai_parameters(operation))


def test_the_page_of_endpoints_is_up_to_date() -> None:
    check = subprocess.run(
        [sys.executable, ROOT / ".ci" / "endpoints.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert check.returncode == 0, check.stderr


def test_the_document_holds_every_schema_that_it_refers_to() -> None:
    document = openapi_document()
    registry = jsonschema_rs.Registry([("urn:ours", document)], draft=jsonschema_rs.Draft202012)
    for name in document["components"]["schemas"]:
        reference = {"$ref": f"urn:ours#/components/schemas/{name}"}
        jsonschema_rs.Draft202012Validator(reference, registry=registry)


def test_what_is_refused_is_not_in_the_document() -> None:
    document = openapi_document()
    create = document["paths"]["/v1/completions"]["post"]["requestBody"]
    registry = jsonschema_rs.Registry([("urn:ours", document)], draft=jsonschema_rs.Draft202012)
    # The schema stands where a path is a key: relative to the document, not to itself.
    schema = {
        **create["content"]["application/json"]["schema"],
        "components": document["components"],
    }
    fits = jsonschema_rs.Draft202012Validator(schema, registry=registry).is_valid
    assert fits({"model": "default", "prompt": "x"})
    assert not fits({"model": "default", "prompt": "x", "suffix": "y"})
