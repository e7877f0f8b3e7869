"""Both ends of a gRPC leg: server and channel, TLS, bearer tokens, sizes of messages, the life of a service."""
