"""`load`: auths by name, from a TOML file that the command `grpc-bearer` reads too."""
