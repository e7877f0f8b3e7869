"""Clients of the encoder service and the LLM service. Only this package of the gateway uses gRPC and the messages.

Each call has a deadline, carries the request id, and raises only ServiceError. Visual tokens stay serialized: they are
cached and forwarded, and their tensors are never read.
"""
