"""What goes over HTTP: pydantic models of requests and responses, nothing else."""
