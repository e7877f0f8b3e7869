"""The encoder service: vision tower and task-aware pruner. From pixels to the visual tokens that matter."""
