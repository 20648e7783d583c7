"""The version of this library, as its installer wrote it down."""

from __future__ import annotations


def version() -> str:
    """The version; `"unknown"` where the library was copied without its metadata (frozen programs, Lambda layers)."""
    from importlib.metadata import PackageNotFoundError, metadata  # 40 ms, for the few who ask

    try:
        told = metadata("grpc-bearer")
        return told["Version"] if "Version" in told else "unknown"  # noqa: SIM401  # its type promises no get()
    # The folder may also be there, with nothing in it: left behind by an uninstallation.
    except (PackageNotFoundError, FileNotFoundError):
        return "unknown"
