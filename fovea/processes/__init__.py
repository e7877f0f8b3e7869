"""Processes on this machine: workers that can be killed, cores that may be used, the three services together."""
