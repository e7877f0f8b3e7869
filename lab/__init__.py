"""The small world: rendered scenes, exact questions about them, and a CLIP and a LLaVA trained on both."""
