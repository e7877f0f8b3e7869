"""Engines, which run the language model; `base.py` has their interface."""
