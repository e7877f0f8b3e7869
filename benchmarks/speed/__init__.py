"""Speed: answers a second, engines, loading, multiply-adds."""
