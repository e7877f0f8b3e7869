"""Checkpoints without trained weights: tiny random ones of every family, larger ones, full-size ones of zeros."""
