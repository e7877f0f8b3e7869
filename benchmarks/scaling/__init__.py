"""Scaling with the number of replicas: measured on this machine, and simulated for larger deployments."""
