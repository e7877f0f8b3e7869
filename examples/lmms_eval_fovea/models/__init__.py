"""What lmms-eval looks for in a plugin."""

AVAILABLE_MODELS = {"fovea": "Fovea"}
