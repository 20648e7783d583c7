"""The token on calls of runtimes other than grpcio: what they share, and one adapter for each."""
