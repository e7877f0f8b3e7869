"""Tokenization of questions for the language model and for the encoder's text tower."""
