"""REST adapters, as users write them: never run, only type-checked."""

from __future__ import annotations

import httpx
import requests

import grpc_bearer
from grpc_bearer.rest import httpx_auth, requests_auth


def sync(auth: grpc_bearer.BearerAuth) -> int:
    with requests.Session() as session:
        session.auth = requests_auth(auth, url="https://api.example.com/fleet")
        status = session.get("https://api.example.com/v1/cars").status_code
    with httpx.Client(auth=httpx_auth("s3cret", allow_plaintext=True)) as client:
        return status + client.get("https://api.example.com/v1/cars").status_code


requests_auth(5)  # type: ignore[arg-type]
httpx_auth(None)  # type: ignore[arg-type]


async def asynchronous(auth: grpc_bearer.BearerAuth) -> str:
    async with httpx.AsyncClient(auth=grpc_bearer.rest.httpx_auth(auth)) as client:
        return (await client.get("https://api.example.com/v1/cars")).text
