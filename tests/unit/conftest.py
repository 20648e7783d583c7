"""What the tests of OAuth sources share: a token endpoint."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from _https import GRANTED, Reply, Server, https_server
from attachments import TLS


@pytest.fixture
def server() -> Iterator[Server]:
    """Grants a token, if nothing else is said."""
    with https_server(Reply(GRANTED), context=TLS.server_context("localhost")) as running:
        yield running
