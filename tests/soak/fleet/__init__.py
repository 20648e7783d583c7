"""A fleet of real processes that share one token: `make fleet` measures what it costs and what it survives.

`worker.py` is the fleet: one process that has imported everything forks the others, holds them at a barrier and lets
go of all at once. `world.py` is what they meet: a token endpoint, a gRPC server that verifies tokens, a real Redis
behind a line that can be cut, and a small disk that can be filled. `scenes.py` are the questions, `run.py` asks them.
"""
