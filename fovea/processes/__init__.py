"""Processes on this machine: killable worker processes, available cores, and the three services as one stack."""
