"""What the smallest hostile inputs cost."""
