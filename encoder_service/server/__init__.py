"""gRPC server of the encoder service: messages to requests, results to messages."""
