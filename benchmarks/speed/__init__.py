"""Time and work: answers a second, engines, loading, multiply-adds."""
