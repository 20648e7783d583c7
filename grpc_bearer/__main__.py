"""`python -m grpc_bearer` does what the command `grpc-bearer` does."""

from __future__ import annotations

import sys

from grpc_bearer._cli import main

if __name__ == "__main__":
    sys.exit(main())
