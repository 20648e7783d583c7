"""One TLS context for all requests with the same certificates, until a file of them is another one."""

from __future__ import annotations

import os
import shutil
import ssl
from pathlib import Path

import pytest
from _https import https_server

from grpc_bearer import BearerAuth, CallContext, HTTPTokenSource
from grpc_bearer.errors import TokenRejectedError, TokenUnavailableError
from grpc_bearer.sources import _tls
from grpc_bearer.sources._tls import Files, context_for
from grpc_bearer.testing import CA, TokenServer


def trusting(path: Path) -> Files:
    return Files(str(path), None, None, None)


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    return CA().write(tmp_path)


def test_the_same_file_is_read_once(ca: Path) -> None:
    assert context_for(trusting(ca)) is context_for(trusting(ca))


def test_another_file_under_the_same_name_is_read(ca: Path, tmp_path: Path) -> None:
    before = context_for(trusting(ca))
    (tmp_path / "other").mkdir()
    os.replace(CA().write(tmp_path / "other"), ca)

    assert context_for(trusting(ca)) is not before


def test_one_who_is_trusted_with_another_certificate_of_the_client_s_has_another_context(
    ca: Path, tmp_path: Path
) -> None:
    (tmp_path / "client").mkdir()
    key, cert = CA().issue("client").write(tmp_path / "client")
    plain, mutual = trusting(ca), Files(str(ca), None, str(cert), str(key))

    assert context_for(plain) is not context_for(mutual)
    assert context_for(mutual) is context_for(mutual)


def test_no_more_are_kept_than_are_used(ca: Path, tmp_path: Path) -> None:
    for number in range(2 * _tls._MOST):
        context_for(trusting(Path(shutil.copy(ca, tmp_path / f"{number}.pem"))))

    assert len(_tls._made) <= _tls._MOST


def test_every_one_of_them_verifies(ca: Path) -> None:
    assert context_for(trusting(ca)).verify_mode is ssl.CERT_REQUIRED


def test_an_endpoint_whose_authority_is_replaced_is_trusted_by_the_new_file_alone(tmp_path: Path) -> None:
    """The server has a certificate of a new authority; the file of the client follows, under the same name."""
    (tmp_path / "new").mkdir()
    new = CA()
    path, following = CA().write(tmp_path), new.write(tmp_path / "new")
    with TokenServer(ca=new) as server:
        source = HTTPTokenSource(
            server.serve_bear({"id": "me", "key": "s3cret"}), json={"id": "me"}, ca=path, timeout=20
        )
        with pytest.raises(TokenUnavailableError, match="certificate verify failed"):
            BearerAuth(source).token()
        assert server.exchanges == []

        os.replace(following, path)

        with pytest.raises(TokenRejectedError):  # it answers
            BearerAuth(source).token()
        assert len(server.exchanges) == 1


def test_a_renewed_certificate_of_the_client_is_shown_at_once_though_a_connection_is_kept_alive(tmp_path: Path) -> None:
    authority = CA()
    context = authority.server_context("localhost")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.pem.decode())
    key, chain = authority.issue("first").write(tmp_path)
    with https_server("t0ken", context=context) as server:
        source = HTTPTokenSource(server.url, ca=authority.write(tmp_path), cert=(chain, key))
        for name in ("first", "first", "second", "second"):
            if name != "first":
                authority.issue(name).write(tmp_path)
            source.fetch(CallContext())
        source.close()

    assert [request.certificate for request in server.requests] == ["first", "first", "second", "second"]
    ports = [request.port for request in server.requests]
    assert ports[0] == ports[1] != ports[2]
