"""The small world: rendered scenes, exact questions, and a CLIP and a LLaVA trained to see them."""
