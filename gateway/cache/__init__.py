"""Cache of answers and visual tokens, in this process or in Redis."""
