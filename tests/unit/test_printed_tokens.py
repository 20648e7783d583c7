"""What commands print, read as a token and the time of its end."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from grpc_bearer.errors import TokenFormatError
from grpc_bearer.sources._printed import printed_token, time_of

NOW, END = 1_700_000_000.0, 1_893_456_000.0  # the end: 2030-01-01T00:00:00Z


def exec_credential(**status: Any) -> dict[str, Any]:
    return {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}


@pytest.mark.parametrize(
    ("printed", "expires_at"),
    [
        ("s3cret", None),
        ('"s3cret"', None),
        (exec_credential(token="s3cret", expirationTimestamp="2030-01-01T00:00:00Z"), END),
        (exec_credential(token="s3cret"), None),
        # az: before 2.54 local time only, later the seconds as well, which are right in the autumn too
        ({"accessToken": "s3cret", "expiresOn": "2030-01-01 07:00:00.000000", "expires_on": END}, END),
        (
            {"accessToken": "s3cret", "expiresOn": "2030-01-01 00:00:00.0", "tokenType": "Bearer"},
            END + time.timezone,
        ),
        ({"token": "s3cret", "expiresOn": "2030-01-01T00:00:00Z"}, END),  # azd
        ({"access_token": "s3cret", "expires_in": 600, "token_type": "bearer", "id_token": "other"}, NOW + 600),
        ({"access_token": "s3cret", "expires_in": "600"}, NOW + 600),
        ({"token": "s3cret", "expiry": "2030-01-01T00:00:00.123456789Z"}, END + 0.123456),  # Go
        ({"token": "s3cret", "expiry": "2030-01-01T02:30:00+02:30"}, END),
        ({"token": "s3cret", "expiry": "2029-12-31 16:00:00-0800"}, END),
        ({"token": "s3cret", "expiry": "2030-01-01T00:00:00"}, END),  # UTC, as google-auth has it
        ({"token": "s3cret", "expiresAt": END * 1000}, END),  # JavaScript
        ({"token": "s3cret", "Version": 1, "Expiration": "2030-01-01T00:00:00+00:00"}, END),  # AWS's credential_process
        # what is no time does not spoil a good token
        ({"token": "s3cret", "expiry": "tomorrow"}, None),
        ({"token": "s3cret", "expiry": "2030-02-30T00:00:00Z", "expires_in": 600}, NOW + 600),
        ({"token": "s3cret", "expiry": None, "expires_in": True}, None),
        ({"access_token": "", "id_token": "s3cret"}, None),
    ],
)
def test_the_token_and_its_end(printed: str | dict[str, Any], expires_at: float | None) -> None:
    text = printed if isinstance(printed, str) else json.dumps(printed)

    assert printed_token(text, None, "'tool'", NOW) == ("s3cret", expires_at)


@pytest.mark.parametrize(
    ("printed", "path", "expires_at"),
    [
        ({"credential": {"id_token": "s3cret", "token_expiry": "2030-01-01T00:00:00Z"}}, "credential.id_token", END),
        ({"auth": {"client_token": "s3cret", "lease_duration": 600}}, "auth.client_token", NOW + 600),  # Vault
        ({"auth": {"client_token": "s3cret", "lease_duration": 0}}, "auth.client_token", None),
        ({"SecretAccessKey": "x", "SessionToken": "s3cret", "Expiration": END}, "SessionToken", END),
        ({"a.b": "s3cret", "exp": END}, "a.b", END),
    ],
)
def test_a_field_that_is_named(printed: dict[str, Any], path: str, expires_at: float | None) -> None:
    assert printed_token(json.dumps(printed), path, "'tool'", NOW) == ("s3cret", expires_at)


@pytest.mark.parametrize(
    ("printed", "path", "words"),
    [
        ("WARNING: old\ns3cret", None, "printed several lines"),
        ("{", None, "not JSON"),
        ("s3cret", "token", "not JSON"),
        ('["s3cret"]', None, "under none of the names token, access_token"),
        ('{"password": "s3cret"}', None, "name its field with json_field="),
        ('{"token": {"value": "s3cret"}}', None, "token: expected a string, got dict"),
        ('{"token": "s3cret"}', "auth.token", "without the field 'auth.token'"),
        ('{"accessToken": "s3cret", "tokenType": "pop"}', None, "token_type is not Bearer"),
        ('{"token": "s3cret", "expires_in": -1}', None, "expires_in: the token is already expired"),
        (json.dumps(exec_credential(clientCertificateData="x", clientKeyData="s3cret")), None, "a client certificate"),
        ('{"Version": 1, "AccessKeyId": "x", "SecretAccessKey": "s3cret"}', None, "AWS keys, which sign requests"),
    ],
)
def test_what_is_no_token(printed: str, path: str | None, words: str) -> None:
    with pytest.raises(TokenFormatError, match=f"^'tool': .*{words}") as caught:
        printed_token(printed, path, "'tool'", NOW)

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("value", ["", "12:00", "2030-13-01T00:00:00Z", [], {}, None, True, float("nan")])
def test_what_is_no_time(value: object) -> None:
    assert time_of(value) is None
