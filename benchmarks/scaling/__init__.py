"""Replicas: measured on this machine, and simulated for more."""
