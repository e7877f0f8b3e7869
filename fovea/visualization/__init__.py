"""Explanations as images: kept and merged patches, task and saliency maps."""
