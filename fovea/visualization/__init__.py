"""Drawings of explanations: kept and merged patches, task and saliency maps."""
