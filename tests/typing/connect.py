"""Clients of connectrpc's, as users write them: never run, only type-checked."""

from __future__ import annotations

from connectrpc.client import ConnectClientSync

import grpc_bearer
import grpc_bearer.connect


def main(auth: grpc_bearer.BearerAuth) -> None:
    client: ConnectClientSync = grpc_bearer.connect.client(ConnectClientSync, "https://api.example.com", auth=auth)
    client.close()
    policy = grpc_bearer.RetryPolicy()
    grpc_bearer.connect.client(ConnectClientSync, "http://mesh", auth="s3cret", retry=policy, allow_plaintext=True)
    grpc_bearer.connect.client(ConnectClientSync, "https://api.example.com")  # type: ignore[call-arg]
    ours = grpc_bearer.connect.interceptor(auth, "https://api.example.com", retry=policy)
    ConnectClientSync("https://api.example.com", interceptors=[ours])
    grpc_bearer.connect.interceptor("https://api.example.com", auth)  # type: ignore[arg-type]
