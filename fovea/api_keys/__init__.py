"""API keys of the gateway's REST clients, in a file of one line a key."""
