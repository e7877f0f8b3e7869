"""Accuracy by pruner, budget and group of questions, in the small world of `lab/`."""
