"""Engine of the encoder service: batches of requests through tower and pruner."""
