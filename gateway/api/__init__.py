"""HTTP endpoints and middleware."""
