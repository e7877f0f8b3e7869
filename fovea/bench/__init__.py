"""Load on an OpenAI-compatible endpoint with images, for `fovea bench`: requests, measurement, statistics, report."""
