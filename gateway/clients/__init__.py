"""Calls to the encoder and the LLM service: the one place of the gateway that knows gRPC and the messages.

Every call has a deadline, carries the request id, and fails with a ServiceError only. Visual tokens stay serialized:
they are stored and forwarded, and their tensors are never read here.
"""
