"""How fast things are: both sides of a comparison interleaved in one run, ratios with their spread."""
