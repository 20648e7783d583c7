"""The site as it is built: what its search finds, how its pages are ordered, and what they are called elsewhere.

What a page looks like, in a browser, is for `make docs-check`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from grpc_bearer.errors import _HELP

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TEXTS = {
    path.relative_to(DOCS).with_suffix("").as_posix(): path.read_text("utf-8")
    for path in DOCS.rglob("*.md")
    if not path.relative_to(DOCS).parts[0].startswith("_")
}

#: What people search for, and a page that must be among the answers.
SEARCHES = {
    "mTLS": "reference/glossary",
    "SPIFFE": "guides/spiffe",
    "Azure": "guides/azure-identity",
    "AWS": "guides/aws",
    "Kubernetes": "guides/where-you-run",
    "device code": "reference/glossary",
    "refresh token": "reference/glossary",
    "proxy": "guides/proxies",
    "Windows": "guides/windows",
    "gunicorn": "guides/fork",
    "Jupyter": "reference/glossary",
    "gevent": "reference/glossary",
    "UNAUTHENTICATED": "guides/troubleshooting",
    "plugin failed": "guides/troubleshooting",
    "Stream removed": "guides/troubleshooting",
    "GB-CLOCK": "guides/troubleshooting",
}
GROUPS = ["Start", "Services", "Use", "Deploy", "Operate", "Migrate", "Reference", "Project"]


@pytest.fixture(scope="module")
def site() -> Path:
    built = os.environ.get("GRPC_BEARER_SITE")
    if not built:
        pytest.skip("looks at what `make docs` built")
    return Path(built)


@pytest.fixture(scope="module")
def index(site: Path) -> dict[str, Any]:
    text = (site / "searchindex.js").read_text("utf-8")
    found: dict[str, Any] = json.loads(text[text.index("(") + 1 : text.rindex(")")])
    return found


def hits(index: dict[str, Any], words: str) -> set[str]:
    """The pages that hold all of the words, as Sphinx's `searchtools.js` looks them up."""
    from sphinx.search.en import SearchEnglish

    language = SearchEnglish({})
    pages: list[set[int]] = []
    for word in language.split(words):
        stem = language.stem(word.lower())
        numbers = [index[where].get(term, []) for where in ("terms", "titleterms") for term in (stem, word.lower())]
        pages.append({number for each in numbers for number in (each if isinstance(each, list) else [each])})
    return {index["docnames"][number] for number in set.intersection(*pages)}


@pytest.mark.parametrize("words", SEARCHES)
def test_a_search_finds_its_page(words: str, index: dict[str, Any]) -> None:
    assert SEARCHES[words] in hits(index, words)


def test_a_search_for_a_code_finds_its_heading_first(index: dict[str, Any]) -> None:
    """What is a main entry of the index counts most."""
    entries, names = index["indexentries"], index["docnames"]
    pages = {code: {names[page] for page, _, main in entries[code.lower()] if main} for code in _HELP.values()}

    assert pages == {code: {"guides/troubleshooting"} for code in _HELP.values()}


def test_a_search_for_what_is_not_there_finds_nothing(index: dict[str, Any]) -> None:
    assert hits(index, "kerberos") == set()


def test_the_navigation_has_these_groups_and_every_page_once() -> None:
    trees = re.findall(r"^```\{toctree\}\n((?::.*\n)+)\n((?:.+\n)+)```", TEXTS["index"], re.MULTILINE)
    listed = [line.rpartition("<")[2].rstrip(">") for _, lines in trees for line in lines.splitlines()]
    waiting = {name for name, text in TEXTS.items() if "orphan: true" in text}

    assert [re.findall(r":caption: (.+)", options) for options, _ in trees] == [[group] for group in GROUPS]
    assert sorted(listed) == sorted(set(TEXTS) - {"index"} - waiting)


def test_every_page_says_elsewhere_what_it_is(site: Path) -> None:
    for name in TEXTS:
        head = (site / f"{name}.html").read_text("utf-8").partition("</head>")[0]
        found = dict(re.findall(r'<meta (?:name|property)="(description|og:\w+)" content="([^"]+)">', head))

        assert set(found) == {"description", "og:type", "og:site_name", "og:title", "og:description"}, name
        assert 20 <= len(found["description"]) <= 162, (name, found["description"])


def test_every_test_that_a_page_names_exists() -> None:
    for name, text in TEXTS.items():
        prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        tests = set(re.findall(r"`(test_\w+)`", prose))
        files = {path for path in re.findall(r"`(tests/[\w/]+\.py)`", prose) if not path.endswith("test_")}
        code = "\n".join((ROOT / path).read_text("utf-8") for path in files)

        assert {test for test in tests if f"def {test}(" not in code} == set(), name
