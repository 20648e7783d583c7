"""The documentation: `make docs` builds it into docs/_build/html."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE / "_ext"))

project = "grpc-bearer"
author = "The grpc-bearer developers"
copyright = author
version = release = version_of("grpc-bearer")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "meta",
    "pictures",
    "quiet",
]
exclude_patterns = ["_*"]
nitpicky = False
# `names` in docstrings are links where they lead somewhere, and code where not.
default_role = "py:obj"

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "exclude-members": "__init__"}
python_maximum_signature_line_length = 64
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = f"grpc-bearer {release}"
html_logo = html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
templates_path = ["_templates"]
# Where it is published, if it is; some tags need whole addresses.
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "")
html_copy_source = False
html_show_sourcelink = False
# Nothing comes from elsewhere: the site reads the same without a network.
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0b6e5f",
        "color-brand-content": "#0b6e5f",
        "color-code-background": "#f6f8f7",
    },
    "dark_css_variables": {
        "color-brand-primary": "#5cc8b4",
        "color-brand-content": "#5cc8b4",
    },
    "footer_icons": [],
}
# Both have a contrast of 4.5 and more (WCAG AA), which `make docs-check` watches.
pygments_style = "github-light-high-contrast"
pygments_dark_style = "github-dark"

NO_REPORT = """\
# What auth costs a call

No report was there when this site was built. `make bench` measures and writes one,
in under fifteen minutes on two cores; the next `make docs` shows it here.
"""


def take_report() -> None:
    """The benchmark report as it is, with its plots, or a word that there is none."""
    target = HERE / "_report"
    shutil.rmtree(target, ignore_errors=True)
    source = ROOT / "benchmarks" / "report"
    if (source / "README.md").exists():
        shutil.copytree(source, target)
    else:
        target.mkdir()
        (target / "README.md").write_text(NO_REPORT, "utf-8")


take_report()
