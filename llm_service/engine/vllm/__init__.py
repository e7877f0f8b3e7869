"""The engine that runs the language model with vLLM. Its modules need the package vllm."""
