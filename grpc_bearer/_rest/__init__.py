"""The token on REST calls: what both adapters share, and the adapters."""
