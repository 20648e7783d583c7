"""Tokens by key: fetched once for everybody who wants them, refreshed ahead, made anew after a refusal."""
