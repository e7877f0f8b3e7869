"""The LLM service: token ids and visual tokens go in, text comes out."""
