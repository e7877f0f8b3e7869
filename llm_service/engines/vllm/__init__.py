"""The engine that has vLLM run the language model. Nothing of it can be imported without the package vllm."""
