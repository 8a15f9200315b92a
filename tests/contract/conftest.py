"""Real S3 servers for every contract suite: one of each a session, started when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.juicefs import JuiceFs
from tests.servers.seaweedfs import SeaweedFs


@pytest.fixture(scope="session")
def juicefs() -> Iterator[JuiceFs]:
    with JuiceFs() as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[SeaweedFs]:
    with SeaweedFs() as server:
        yield server
