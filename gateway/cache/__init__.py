"""Two cache levels, answers and visual tokens, embedded or in Redis."""
