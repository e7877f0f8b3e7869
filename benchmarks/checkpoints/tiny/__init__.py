"""Small random checkpoints of every family, written by the real classes of transformers.

Configs are the real ones scaled down, with real processor classes and a small real tokenizer that has the real special
tokens and chat template. What they answer is noise; that the split services answer the *same* noise as the unsplit
model is what `benchmarks.split_exactness` and the tests look at. One file a family, each with
`write(folder: Path, *, seed: int = 0) -> Path`.
"""
