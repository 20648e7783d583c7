"""What an error is about is said to the error, not written into its text: `load` names the line of that field."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import grpc_bearer

ROOT = Path(grpc_bearer.__file__).parent
# What makes an auth: errors from here are told in the words of a configuration.
MAKERS = ("_auth.py", "_base/*.py", "cache/*.py", "sources/*.py", "profiles.py")
NAMED = re.compile(r"""f?['"](\{[\w.]+\}|\w+): """)


def written_into_the_text(source: str) -> list[int]:
    """The lines that make an error whose text begins with a name."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("ConfigurationError", "SigningError")
        and "field" not in {keyword.arg for keyword in node.keywords}
        and NAMED.match(ast.unparse(node.args[0]))
    ]


def test_an_error_about_an_argument_carries_its_name() -> None:
    paths = [path for pattern in MAKERS for path in ROOT.glob(pattern)]
    found = {path.name: lines for path in paths if (lines := written_into_the_text(path.read_text("utf-8")))}

    assert len(paths) > 40
    assert found == {}


def test_the_check_sees_a_name_in_a_text() -> None:
    source = """
raise ConfigurationError("url: empty")
raise SigningError(f"{where}: a public key")
raise ConfigurationError("empty", field="url")
raise ConfigurationError(f"{name}: empty", field="headers")
raise ConfigurationError("body, json, form: give one of them only")
"""

    assert written_into_the_text(source) == [2, 3]
