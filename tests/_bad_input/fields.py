"""Credential fields: missing, extra, empty, of another type; files that are none; arguments of profiles."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from grpc_bearer import ConfigurationError, profiles

from . import material as m
from .row import Row, Stage, build

_WRONG = {
    "missing": (None, "missing"),
    "empty": ("", "empty"),
    "blank": (" \n", "empty"),
    "a number": (7, "expected a str, got int"),
    "null": (None, "expected a str, got NoneType"),
    "a list": ([m.HIDDEN], "expected a str, got list"),
    "an object": ({"value": m.HIDDEN}, "expected a str, got dict"),
    "true": (True, "expected a str, got bool"),
    "of two lines": (f"{m.HIDDEN}\n{m.HIDDEN}", "has a line break in it"),
    "not filled in": ("${CREDENTIAL}", "a placeholder that was not filled in"),
}
_PROFILES: dict[str, tuple[Callable[..., Any], dict[str, str]]] = {
    "bear": (profiles.bear, m.BEAR),
    "openfx": (profiles.openfx, m.OPENFX),
}


def _as_file(stage: Stage, content: dict[str, Any]) -> Path:
    return stage.file("credentials.json", m.as_text(content))


_FORMS: dict[str, Callable[[Stage, dict[str, Any]], Any]] = {
    "mapping": lambda stage, content: content,
    "text": lambda stage, content: m.as_text(content),
    "bytes": lambda stage, content: m.as_text(content).encode(),
    "path": _as_file,
    "file name": lambda stage, content: str(_as_file(stage, content)),
}


def fields() -> Iterator[Row]:
    """Each field of each profile in each wrong state; the forms of credentials take turns."""
    forms = itertools.cycle(_FORMS)
    for profile, (make, good) in _PROFILES.items():
        for name, (state, (value, words)) in itertools.product(good, _WRONG.items()):
            content = m.without(good, name) if state == "missing" else {**good, name: value}
            form = next(forms)
            file = "|credentials.json" if form in ("path", "file name") else ""
            yield build(
                f"{profile}: {name} is {state}, in a {form}",
                ConfigurationError,
                f"credentials|{name}: {words}{file}",
                lambda stage, make=make, form=form, content=content: make(_FORMS[form](stage, content)),
            )
    for form in _FORMS:
        file = "|credentials.json" if form in ("path", "file name") else ""
        yield build(
            f"bear: an extra field, in a {form}",
            ConfigurationError,
            f"credentials|token: not known here|nothing else{file}",
            lambda stage, form=form: profiles.bear(_FORMS[form](stage, {**m.BEAR, "token": m.TOKEN})),
        )
    yield build(
        "bear: names and values swapped",
        ConfigurationError,
        "api_key: missing|scope: missing|secret: missing|a field whose name is not shown",
        lambda stage: profiles.bear({value: name for name, value in m.BEAR.items()}),
    )
    yield build(
        "bear: everything wrong is told at once",
        ConfigurationError,
        "api_key: empty|scope: missing|secret: expected a str, got int",
        lambda stage: profiles.bear({"api_key": "", "secret": 7}),
    )
    yield build(
        "openfx: the file of another service",
        ConfigurationError,
        "name: missing|privateKey: missing|credentials.json",
        lambda stage: profiles.openfx(_as_file(stage, m.BEAR)),
    )


def files() -> Iterator[Row]:
    """What stands where a file of credentials is expected, for each profile that takes one."""
    contents: dict[str, tuple[str | bytes, str]] = {
        "an empty file": ("", "not JSON"),
        "a file with a token": (m.TOKEN, "not JSON"),
        "a PEM file": (m.PEMS["P-256"], "not JSON"),
        "JSON that breaks off": (m.as_text(m.BEAR)[:-2], "not JSON (line 1"),
        "a JSON list": (m.as_text([m.BEAR]), "expected a JSON object, found list"),
        "a JSON string": (m.as_text(m.TOKEN), "expected a JSON object, found str"),
        "a binary file": (b"\xff\xfe\x00" + m.BEAR_SECRET.encode(), "not text in UTF-8"),
        "JSON a thousand levels deep": ("[" * 100_000, "not JSON"),
        "a file of 300 kB": (m.as_text({**m.BEAR, "scope": "x" * 300_000}), "over 262144 bytes"),
    }
    for profile, (make, _) in _PROFILES.items():
        for state, (content, words) in contents.items():
            yield build(
                f"{profile}: {state}",
                ConfigurationError,
                f"credentials|wrong.json|{words}",
                lambda stage, make=make, content=content: make(stage.file("wrong.json", content)),
            )
        others: dict[str, tuple[Callable[[Stage], Any], str]] = {
            "no such file": (lambda stage: stage.directory / "none.json", "cannot read|none.json|No such file"),
            "no such file, as str": (lambda stage: str(stage.directory / "none.json"), "no such file|none.json"),
            "a directory": (lambda stage: stage.directory, "cannot read|Is a directory"),
            "a token": (lambda stage: m.TOKEN, "neither a known format nor the name of a file"),
            "an endless file": (lambda stage: Path("/dev/zero"), "/dev/zero|over 262144 bytes"),
            "a name with NUL": (lambda stage: Path("a\0b.json"), "empty, or with a NUL in it"),
            "text that breaks off": (lambda stage: m.as_text(m.BEAR)[:-2], "not JSON (line 1"),
            "None": (lambda stage: None, "expected a file, a mapping or JSON text, got NoneType"),
            "a number": (lambda stage: 7, "got int"),
            "a list": (lambda stage: [m.HIDDEN], "got list"),
        }
        if os.geteuid():  # root reads everything
            others["an unreadable file"] = (_unreadable, "cannot read|locked.json|Permission denied")
        for state, (given, words) in others.items():
            yield build(
                f"{profile}: {state}",
                ConfigurationError,
                f"credentials|{words}",
                lambda stage, make=make, given=given: make(given(stage)),
            )


def _unreadable(stage: Stage) -> Path:
    path = stage.file("locked.json", m.as_text(m.BEAR))
    path.chmod(0)
    return path


def arguments() -> Iterator[Row]:
    """The other arguments of profiles."""

    def skykit(**how: Any) -> Callable[[Stage], Any]:
        return lambda stage: profiles.skykit(m.PEMS["RSA"], **{"issuer": "me@example.com", **how})

    def openfx(**how: Any) -> Callable[[Stage], Any]:
        return lambda stage: profiles.openfx(m.OPENFX, **how)

    def bitbroker(*token: Any, **how: Any) -> Callable[[Stage], Any]:
        return lambda stage: profiles.bitbroker(*token, **how)

    for make, service, longest in ((skykit, "skykit", 3600), (openfx, "openfx", 120)):
        yield build(
            f"{service}: a lifetime beyond the service's maximum",
            ConfigurationError,
            f"lifetime|{longest + 1} seconds|at most {longest}",
            make(lifetime=longest + 1),
        )
        for state, value in {
            "zero": 0,
            "below zero": -60,
            "infinite": float("inf"),
            "no number": float("nan"),
            "text": "60",
            "true": True,
            "None": None,
        }.items():
            yield build(
                f"{service}: a lifetime that is {state}",
                ConfigurationError,
                "lifetime: expected a number of seconds",
                make(lifetime=value),
            )
    for state, issuer in {"empty": "", "blank": " ", "None": None, "a number": 7}.items():
        yield build(f"skykit: issuer is {state}", ConfigurationError, "issuer: expected a str", skykit(issuer=issuer))
        yield build(
            f"openfx: audience is {state}", ConfigurationError, "audience: expected a str", openfx(audience=issuer)
        )
        yield build(f"openfx: issuer is {state}", ConfigurationError, "issuer: expected a str", openfx(issuer=issuer))
    routes = {"pkg.Service/*": "consumer"}
    yield build(
        "bitbroker: nothing",
        ConfigurationError,
        "token: missing|coordinator, contributor, consumer|routes",
        bitbroker(),
    )
    yield build(
        "bitbroker: a token and a role",
        ConfigurationError,
        "token: is for all calls",
        bitbroker(m.TOKEN, consumer=m.TOKEN),
    )
    yield build(
        "bitbroker: a token and routes",
        ConfigurationError,
        "token: is for all calls",
        bitbroker(m.TOKEN, routes=routes),
    )
    yield build("bitbroker: roles without routes", ConfigurationError, "routes: missing", bitbroker(consumer=m.TOKEN))
    yield build(
        "bitbroker: no routes in it", ConfigurationError, "routes: missing", bitbroker(consumer=m.TOKEN, routes={})
    )
    yield build(
        "bitbroker: routes are a list",
        ConfigurationError,
        "routes: missing",
        bitbroker(consumer=m.TOKEN, routes=["pkg.*"]),
    )
    yield build(
        "bitbroker: an unknown role",
        ConfigurationError,
        "routes: pkg.*|none of coordinator",
        bitbroker(consumer=m.TOKEN, routes={"pkg.*": m.HIDDEN}),
    )
    yield build(
        "bitbroker: a role without its token",
        ConfigurationError,
        "contributor: missing|pkg.*",
        bitbroker(consumer=m.TOKEN, routes={"pkg.*": "contributor"}),
    )
    yield build(
        "bitbroker: a pattern that is empty",
        ConfigurationError,
        "routes: a pattern is empty",
        bitbroker(consumer=m.TOKEN, routes={"": "consumer"}),
    )
    yield build(
        "bitbroker: a pattern that is no str",
        ConfigurationError,
        "routes: a pattern is empty or no str",
        bitbroker(consumer=m.TOKEN, routes={7: "consumer"}),
    )
    yield build(
        "bitbroker: an unhashable role",
        ConfigurationError,
        "routes: pkg.*",
        bitbroker(consumer=m.TOKEN, routes={"pkg.*": ["consumer"]}),
    )
    for role in ("coordinator", "contributor", "consumer"):
        yield build(
            f"bitbroker: {role} is a number",
            ConfigurationError,
            f"{role}: expected a str, a path or a function, got int",
            bitbroker(**{role: 7, "routes": {"pkg.*": role}}),
        )
    for name, make in {"crm": profiles.crm, "bitbroker": profiles.bitbroker}.items():
        for state, value in {"None": None, "a class": str, "bytes": m.TOKEN.encode()}.items():
            if value is not None or name == "crm":  # BitBroker's token may be missing: then each role has its own
                yield build(
                    f"{name}: {state}",
                    ConfigurationError,
                    f"token: expected a str, a path or a function, got {type(value).__name__}",
                    lambda stage, make=make, value=value: make(value),
                )
    yield build(
        "bear: url is plain http",
        ConfigurationError,
        "url: http:// would send the credential in the clear",
        lambda stage: profiles.bear(m.BEAR, url="http://auth.example.com/"),
    )
    yield build(
        "bear: url is plain http to this machine",
        ConfigurationError,
        "url: http://",
        lambda stage: profiles.bear(m.BEAR, url="http://127.0.0.1:1/"),
    )
    yield build(
        "bear: url is a number",
        ConfigurationError,
        "url: expected a str, got int",
        lambda stage: profiles.bear(m.BEAR, url=7),
    )
    yield build(
        "bear: ca does not exist",
        ConfigurationError,
        "ca: no such file|none.pem",
        lambda stage: profiles.bear(m.BEAR, ca=stage.directory / "none.pem"),
    )
    yield build(
        "bear: ca holds a key",
        ConfigurationError,
        "ca: no PEM certificates in|key.pem",
        lambda stage: profiles.bear(m.BEAR, ca=stage.file("key.pem", m.PEMS["RSA"])),
    )
    for name, make_profile in {
        "bear": lambda **how: profiles.bear(m.BEAR, **how),
        "skykit": lambda **how: profiles.skykit(m.PEMS["RSA"], "me", **how),
        "bitbroker": lambda **how: profiles.bitbroker(m.TOKEN, **how),
        "crm": lambda **how: profiles.crm(m.TOKEN, **how),
        "openfx": lambda **how: profiles.openfx(m.OPENFX, **how),
    }.items():
        yield build(
            f"{name}: max_keys is 0", ConfigurationError, "max_keys", lambda stage, make=make_profile: make(max_keys=0)
        )
        yield build(
            f"{name}: clock is a number", ConfigurationError, "clock", lambda stage, make=make_profile: make(clock=7)
        )


ROWS = [*fields(), *files(), *arguments()]
