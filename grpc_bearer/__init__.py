"""Bearer tokens on gRPC calls."""
