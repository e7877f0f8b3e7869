"""Tiny random checkpoints of every family, written by the classes of transformers.

Configs are the published ones scaled down. Processor classes, special tokens and chat templates are the published
ones; the tokenizers are small. Answers are noise; `benchmarks.split_exactness` and the tests check that the split
services and the unsplit model give the same noise. Each family has a file with
`write(folder: Path, *, seed: int = 0) -> Path`. Further files are for the tests of one service:

* `tokenizers_only`: the tokenizer half of a checkpoint, without weights;
* `llava_layouts`: a LLaVA in several layouts of its files, and a CLIP;
* `llava_language`: LLaVAs for the language side, some with crafted weights.
"""
