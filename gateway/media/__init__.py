"""Images and videos of a request: loading, checks and digests."""
