"""What the installer of this library wrote down of it."""

from __future__ import annotations


def version() -> str:
    """The version; `"unknown"` where the library was copied without its metadata (frozen programs, Lambda layers)."""
    return (_told("Version") or ["unknown"])[0]


def documentation() -> str:
    """The address of the documentation; empty where that is not known."""
    named = (each.partition(", ") for each in _told("Project-URL"))
    return next((url.rstrip("/") for name, _, url in named if name == "Documentation"), "")


def _told(field: str) -> list[str]:
    from importlib.metadata import PackageNotFoundError, metadata  # 40 ms, for the few who ask

    try:
        return metadata("grpc-bearer").get_all(field) or []
    # The folder may also be there, with nothing in it: left behind by an uninstallation.
    except (PackageNotFoundError, FileNotFoundError):
        return []
