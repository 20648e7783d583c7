"""How a token reaches a call, and what becomes of a call that was refused."""
