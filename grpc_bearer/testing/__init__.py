"""What tests of token-bearing clients need, shipped: everything on loopback, over real TLS, and thrown away afterwards.

* `CA`: a certificate authority.
* `TokenServer`: an HTTPS token endpoint that fails on demand.
* `ProbeServer`: a gRPC server that really verifies, writes each attempt into a ledger, and fails on demand.
* `GoawayProxy`: stands before it and ends connections the way proxies in the field do.
* `PlaintextRecorder`: writes down what would have gone out in the clear.
* `ManualClock`: time moved by hand.
* `SecretWatch`: fails if a secret is logged.

For pytest it comes as fixtures, with nothing to import: `bearer_grpc_server`, `bearer_token_server`, `bearer_auth` and
more, which `pytest --fixtures` lists. Without pytest the servers are context managers:

>>> import grpc_bearer.testing as kit
>>> with kit.ProbeServer(kit.OpaqueVerifier(["t0"])) as server, server.channel() as channel:
...     reply = kit.ProbeStub(channel).Unary(kit.ProbeRequest(index=1), metadata=[("authorization", "Bearer t0")])
>>> server.ledger[0].accepted
True
"""

from grpc_bearer.testing._ca import CA, LOOPBACK_NAMES, Certificate
from grpc_bearer.testing._clock import ManualClock
from grpc_bearer.testing._goaway import GoawayProxy, RefusedStream
from grpc_bearer.testing._http import Exchange, HTTPFault, Request, Response
from grpc_bearer.testing._http_faults import (
    BigBody,
    ExpiredJWT,
    Garbage,
    Hang,
    NotJSON,
    Redirect,
    Reset,
    Status,
    Trickle,
    WithoutDate,
)
from grpc_bearer.testing._keys import private_pem, public_pem, throwaway_key
from grpc_bearer.testing._ledger import Attempt, Ledger
from grpc_bearer.testing._oauth_client import OAuthClient
from grpc_bearer.testing._pb.probe_pb2 import ProbeReply, ProbeRequest
from grpc_bearer.testing._pb.probe_pb2_grpc import ProbeStub
from grpc_bearer.testing._probe import ProbeServer, ProbeService
from grpc_bearer.testing._recorder import PlaintextRecorder
from grpc_bearer.testing._script import Delay, Refuse
from grpc_bearer.testing._services import Service, Services
from grpc_bearer.testing._token_server import TokenServer
from grpc_bearer.testing._verifiers import JWTVerifier, OpaqueVerifier, Refusal, Verdict, Verifier
from grpc_bearer.testing._watch import SecretWatch

__all__ = [
    "CA",
    "LOOPBACK_NAMES",
    "Attempt",
    "BigBody",
    "Certificate",
    "Delay",
    "Exchange",
    "ExpiredJWT",
    "Garbage",
    "GoawayProxy",
    "HTTPFault",
    "Hang",
    "JWTVerifier",
    "Ledger",
    "ManualClock",
    "NotJSON",
    "OAuthClient",
    "OpaqueVerifier",
    "PlaintextRecorder",
    "ProbeReply",
    "ProbeRequest",
    "ProbeServer",
    "ProbeService",
    "ProbeStub",
    "Redirect",
    "Refusal",
    "Refuse",
    "RefusedStream",
    "Request",
    "Reset",
    "Response",
    "SecretWatch",
    "Service",
    "Services",
    "Status",
    "TokenServer",
    "Trickle",
    "Verdict",
    "Verifier",
    "WithoutDate",
    "private_pem",
    "public_pem",
    "throwaway_key",
]
