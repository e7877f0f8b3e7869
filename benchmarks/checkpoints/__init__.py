"""Checkpoints without trained weights: tiny random ones of every family, larger ones, and full-size ones of zeros."""
