"""Stand-ins for the token services of the clouds: they ask for what the real ones ask for, and answer as those do.

Each is written after its vendor's documentation, which it names. They share one `TokenServer`, and are told apart by
the name that a client asks for. What a platform gives to its workloads (a projected token, an assertion) is signed by
that server too, and verified before anything is given for it.
"""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from jose import verified

from grpc_bearer.testing import Request, Response, TokenServer

Answer = dict[str, Any]
Handler = Callable[[Request], "Answer | Response"]

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
TYPE = "urn:ietf:params:oauth:token-type:"

TENANT, CLIENT = "9f4d2a4e-2a39-4f0e-bd1d-0f5b1c1e7a10", "1c5b1f0e-7a10-4e2a-9f4d-2a394f0ebd1d"
POOL = "//iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/on-premises/providers/cluster"
GOOGLE_ACCOUNT = "fleet@project.iam.gserviceaccount.com"


class Refused(Exception):
    """An OAuth error answer (RFC 6749 section 5.2)."""

    def __init__(self, error: str, description: str, status: int = 400, **more: Any) -> None:
        super().__init__(error)
        self.status, self.body = status, {"error": error, "error_description": description, **more}


class Clouds:
    """All of them.

    Args:
        tokens: where they are served, and what signs.
        folder: stands for the root of the file system: what platforms mount lies below it.
    """

    def __init__(self, tokens: TokenServer, folder: Path) -> None:
        self._tokens, self._folder = tokens, folder
        self._routes: dict[str, dict[str, Handler]] = {}
        for made in (entra, google, aws, github, vault, identity_providers, authorization_server):
            for address, handler in made(self).items():
                self.serve(address, handler)

    @property
    def hosts(self) -> set[str]:
        """The names that lead here."""
        return {host for hosts in self._routes.values() for host in hosts}

    def serve(self, address: str, handler: Handler) -> None:
        """Serve a host and a path, such as `login.example.com/oauth2/v1/token`."""
        host, _, path = address.partition("/")
        hosts = self._routes.setdefault(f"/{path}", {})
        if not hosts:
            self._tokens.serve(f"/{path}", lambda request: self._answer(hosts, request))
        hosts[host] = handler

    def _answer(self, hosts: Mapping[str, Handler], request: Request) -> Response:
        handler = hosts.get(request.headers["host"].partition(":")[0])
        if handler is None:
            return Response(404, b"no such path on this host")
        try:
            answer = handler(request)
        except Refused as refused:
            return json_response(refused.body, refused.status)
        return answer if isinstance(answer, Response) else json_response(answer)

    # -- what they sign, and verify

    def mint(self, subject: str, audience: object = None, **claims: Any) -> str:
        aud = {} if audience is None else {"aud": audience}
        return self._tokens.mint(subject, **aud, **claims)

    def claims(self, token: str | None, audience: str) -> dict[str, Any]:
        """Of a token that is good here."""
        try:
            claims = verified(token or "", self._tokens.public_key, self._tokens.algorithm)[1]
        except Exception as error:
            raise Refused("invalid_grant", f"no token of ours: {type(error).__name__}") from None
        if claims.get("aud") not in (audience, [audience]):
            raise Refused("invalid_grant", f"the token is for {claims.get('aud')}")
        return claims

    def mount(self, path: str, subject: str, audience: str) -> Path:
        """Have a platform mount a token of a workload's at that absolute path."""
        file = self._folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.mint(subject, [audience]), "utf-8")
        return file


def json_response(body: object, status: int = 200) -> Response:
    return Response(status, json.dumps(body).encode(), content_type="application/json")


def form_of(request: Request) -> dict[str, str]:
    if request.method != "POST":
        raise Refused("invalid_request", "want POST", 405)
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise Refused("invalid_request", "want a form")
    return dict(urllib.parse.parse_qsl(request.body.decode(), strict_parsing=True))


def need(form: Mapping[str, str], **wanted: str) -> None:
    """These parameters must have these values."""
    for name, value in wanted.items():
        if form.get(name) != value:
            raise Refused("invalid_request", f"{name}: want {value}, got {form.get(name)}")


def granted(token: str, **more: Any) -> Answer:
    return {"access_token": token, "token_type": "Bearer", "expires_in": 3599, **more}


# ------------------------------------------------------------------------------------------------------------- Entra ID


def entra(clouds: Clouds) -> dict[str, Handler]:
    """learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow (third case: federated credential)
    and learn.microsoft.com/entra/workload-id/workload-identity-federation."""
    host, issuer = "login.microsoftonline.com", f"https://login.microsoftonline.com/{TENANT}/v2.0"

    def token(request: Request) -> Answer:
        form = form_of(request)
        need(form, grant_type="client_credentials", client_id=CLIENT, client_assertion_type=ASSERTION)
        if not form.get("scope", "").endswith("/.default"):
            raise Refused("invalid_scope", "AADSTS1002012: want a scope with /.default", error_codes=[1002012])
        try:
            clouds.claims(form.get("client_assertion"), "api://AzureADTokenExchange")
        except Refused:
            text = "AADSTS700212: No matching federated identity record found for presented assertion audience."
            raise Refused("invalid_client", text, 401, error_codes=[700212], trace_id="0", correlation_id="0") from None
        audience = form["scope"].removesuffix("/.default")
        return granted(clouds.mint(CLIENT, audience, appid=CLIENT, iss=issuer), ext_expires_in=3599)

    endpoints = {name: f"https://{host}/{TENANT}/oauth2/v2.0/{name}" for name in ("token", "authorize")}
    metadata = {
        "issuer": issuer,
        "token_endpoint": endpoints["token"],
        "authorization_endpoint": endpoints["authorize"],
    }
    return {
        f"{host}/{TENANT}/v2.0/.well-known/openid-configuration": lambda _: metadata,
        f"{host}/{TENANT}/oauth2/v2.0/token": token,
        # azure-identity asks who the authority is before it trusts it.
        f"{host}/common/discovery/instance": lambda _: {
            "tenant_discovery_endpoint": f"{issuer}/.well-known/openid-configuration",
            "metadata": [{"preferred_network": host, "preferred_cache": "login.windows.net", "aliases": [host]}],
        },
    }


# --------------------------------------------------------------------------------------------------------------- Google


def google(clouds: Clouds) -> dict[str, Handler]:
    """cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token (workload identity federation), …/iam/docs/
    reference/credentials/rest/v1/projects.serviceAccounts (impersonation), developers.google.com/identity/protocols/
    oauth2/service-account and cloud.google.com/docs/authentication/get-id-token (service accounts)."""

    def sts(request: Request) -> Answer:
        form = form_of(request)
        wanted = {"requested_token_type": f"{TYPE}access_token", "subject_token_type": f"{TYPE}jwt"}
        need(form, grant_type=EXCHANGE, audience=POOL, **wanted)
        if "scope" not in form:
            raise Refused("invalid_request", "Missing scope.")
        subject = clouds.claims(form.get("subject_token"), f"https:{POOL}")["sub"]
        token = clouds.mint(f"principal:{POOL}/subject/{subject}", "https://sts.googleapis.com/")
        return granted(token, issued_token_type=f"{TYPE}access_token")

    def impersonated(request: Request) -> Answer:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        clouds.claims(bearer, "https://sts.googleapis.com/")
        if not json.loads(request.body).get("scope"):
            raise Refused("INVALID_ARGUMENT", "scope")
        end = datetime.now(timezone.utc) + timedelta(hours=1)
        return {"accessToken": clouds.mint(GOOGLE_ACCOUNT), "expireTime": end.strftime("%Y-%m-%dT%H:%M:%SZ")}

    def service_account(request: Request) -> Answer:
        form = form_of(request)
        need(form, grant_type=JWT_BEARER)
        # Its signature is that of the account's own key, which the pages' other examples verify.
        claims = json.loads(base64.urlsafe_b64decode(form["assertion"].split(".")[1] + "=="))
        if "target_audience" in claims:
            return {"id_token": clouds.mint(GOOGLE_ACCOUNT, claims["target_audience"])}
        return granted(clouds.mint(GOOGLE_ACCOUNT, scope=claims["scope"]))

    generate = f"v1/projects/-/serviceAccounts/{GOOGLE_ACCOUNT}:generateAccessToken"
    return {
        "sts.googleapis.com/v1/token": sts,
        f"iamcredentials.googleapis.com/{generate}": impersonated,
        "oauth2.googleapis.com/token": service_account,
    }


# ------------------------------------------------------------------------------------------------------------------ AWS


def aws(clouds: Clouds) -> dict[str, Handler]:
    """docs.aws.amazon.com/STS/latest/APIReference/API_GetWebIdentityToken.html."""

    def sts(request: Request) -> Response:
        form = form_of(request)
        need(form, Action="GetWebIdentityToken", Version="2011-06-15")
        if form.get("SigningAlgorithm") not in ("RS256", "ES384") or not form.get("Audience.member.1"):
            raise Refused("ValidationError", "SigningAlgorithm, Audience")
        if not request.headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 "):
            raise Refused("MissingAuthenticationToken", "want a signature", 403)
        token = clouds.mint("arn:aws:iam::123456789012:role/fleet", form["Audience.member.1"])
        end = datetime.now(timezone.utc) + timedelta(seconds=int(form.get("DurationSeconds", "300")))
        result = f"<WebIdentityToken>{token}</WebIdentityToken><Expiration>{end:%Y-%m-%dT%H:%M:%SZ}</Expiration>"
        body = (
            '<GetWebIdentityTokenResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            f"<GetWebIdentityTokenResult>{result}</GetWebIdentityTokenResult></GetWebIdentityTokenResponse>"
        )
        return Response(200, body.encode(), content_type="text/xml")

    return {"sts.eu-west-1.amazonaws.com/": sts}


# ------------------------------------------------------------------------------------------------------- GitHub Actions


def github(clouds: Clouds) -> dict[str, Handler]:
    """docs.github.com/actions/reference/security/oidc: the two variables, the audience in the query, `value`."""

    def token(request: Request) -> Answer:
        if request.method != "GET" or request.headers.get("authorization") != "Bearer the-request-token":
            raise Refused("unauthorized", "", 401)
        audience = urllib.parse.parse_qs(request.query).get("audience", ["https://github.com/example"])[0]
        subject = "repo:example/fleet:ref:refs/heads/main"
        value = clouds.mint(subject, audience, iss="https://token.actions.githubusercontent.com")
        return {"count": len(value), "value": value}

    return {"run-actions-1-azure-eastus.actions.githubusercontent.com/142//idtoken/0/0": token}


# ------------------------------------------------------------------------------------------------------ HashiCorp Vault


def vault(clouds: Clouds) -> dict[str, Handler]:
    """developer.hashicorp.com/vault/api-docs/auth/jwt#jwt-login and …/vault/api-docs/secret/identity/tokens."""
    issued: set[str] = set()

    def login(request: Request) -> Answer:
        body = json.loads(request.body)
        need(body, role="fleet")
        subject = clouds.claims(body.get("jwt"), "vault")["sub"]
        issued.add(token := f"hvs.{len(issued)}.{subject}")
        return {"auth": {"client_token": token, "lease_duration": 3600, "renewable": True, "policies": ["fleet"]}}

    def identity_token(request: Request) -> Answer:
        if request.method != "GET" or request.headers.get("x-vault-token") not in issued:
            return json_response({"errors": ["permission denied"]}, 403)  # type: ignore[return-value]
        return {"data": {"client_id": "fleet-api", "token": clouds.mint("the-entity", "fleet-api"), "ttl": 3600}}

    return {
        "vault.example.com/v1/auth/jwt/login": login,
        "vault.example.com/v1/identity/oidc/token/fleet": identity_token,
    }


# ---------------------------------------------------------------------------------------------------- by their issuer


def identity_providers(clouds: Clouds) -> dict[str, Handler]:
    """developer.okta.com/docs/api/openapi/okta-oauth/, auth0.com/docs/api/authentication/client-credential-flow,
    www.keycloak.org/securing-apps/oidc-layers."""

    def provider(issuer: str, endpoint: str, **wanted: str) -> dict[str, Handler]:
        def token(request: Request) -> Answer:
            form = form_of(request)
            need(form, grant_type="client_credentials", **wanted)
            if not request.headers.get("authorization", "").startswith("Basic ") and "client_secret" not in form:
                raise Refused("invalid_client", "want a secret", 401)
            return granted(clouds.mint("fleet-client", form.get("audience"), iss=issuer), scope=form.get("scope", ""))

        metadata = {"issuer": issuer, "token_endpoint": endpoint}
        known = f"{issuer.rstrip('/')}/.well-known/openid-configuration".removeprefix("https://")
        return {known: lambda _: metadata, endpoint.removeprefix("https://"): token}

    return {
        **provider(
            "https://example.okta.com/oauth2/default",
            "https://example.okta.com/oauth2/default/v1/token",
            scope="fleet.read",
        ),
        **provider(
            "https://example.eu.auth0.com/",
            "https://example.eu.auth0.com/oauth/token",
            audience="https://fleet.example.com/api",
        ),
        **provider(
            "https://keycloak.example.com/realms/fleet",
            "https://keycloak.example.com/realms/fleet/protocol/openid-connect/token",
        ),
    }


# ------------------------------------------------------------------------------ an authorization server of one's own


def authorization_server(clouds: Clouds) -> dict[str, Handler]:
    """RFC 8414, RFC 8693 and RFC 8628: it trusts the platforms above."""

    def token(request: Request) -> Answer:
        form = form_of(request)
        if form.get("grant_type") == EXCHANGE:
            need(form, subject_token_type=f"{TYPE}jwt", audience="fleet")
            subject = clouds.claims(form.get("subject_token"), "https://login.example.com")["sub"]
            return granted(clouds.mint(subject, "fleet"), issued_token_type=f"{TYPE}access_token")
        if form.get("grant_type") == DEVICE:
            need(form, client_id="fleet-cli", device_code="the-device-code")
            return granted(clouds.mint("somebody", "fleet"), refresh_token="the-refresh-token")
        raise Refused("unsupported_grant_type", "")

    def device(request: Request) -> Answer:
        need(form_of(request), client_id="fleet-cli")
        page = "https://login.example.com/device"
        codes = {"device_code": "the-device-code", "user_code": "WDJB-MJHT"}
        return {**codes, "verification_uri": page, "expires_in": 900, "interval": 0.01}

    metadata = {
        "issuer": "https://login.example.com",
        "token_endpoint": "https://login.example.com/oauth2/v1/token",
        "device_authorization_endpoint": "https://login.example.com/oauth2/v1/device",
    }
    return {
        "login.example.com/.well-known/openid-configuration": lambda _: metadata,
        "login.example.com/oauth2/v1/token": token,
        "login.example.com/oauth2/v1/device": device,
    }
