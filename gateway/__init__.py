"""The gateway: one REST front that tokenizes, caches and composes encoder and LLM service. Never loads torch."""
