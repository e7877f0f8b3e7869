"""Engines: what runs the model. `base.py` is the interface."""
