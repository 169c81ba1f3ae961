"""API keys: their records, their secrets, and who a request comes from."""
