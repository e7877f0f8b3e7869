"""Models of the plugin, read by lmms-eval."""

AVAILABLE_MODELS = {"fovea": "Fovea"}
