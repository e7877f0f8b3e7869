"""Who asks, and how much a client may ask. Knows no HTTP."""
