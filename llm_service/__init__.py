"""The LLM service: generates text from token ids and visual tokens."""
