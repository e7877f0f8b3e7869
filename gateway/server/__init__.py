"""The REST server: connections with their limits and time limits, TLS, and trusted proxies. It knows no endpoint."""
