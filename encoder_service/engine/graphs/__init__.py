"""CUDA graphs of the encoder: what is captured, for which batch sizes, and when a capture serves."""
