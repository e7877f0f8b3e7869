"""gRPC server of the LLM service: messages to requests, events to messages."""
