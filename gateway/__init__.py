"""The gateway: REST API in front of the encoder service and the LLM service. Never loads torch."""
