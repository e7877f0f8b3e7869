"""Exactness: the split services against the unsplit model, pruners against golden cases."""
