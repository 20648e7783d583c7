"""Values and tools that know nothing of engine, sources or calls."""
