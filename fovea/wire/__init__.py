"""Wire formats of visual tokens: `Tensor` messages, codecs and learned bases. Needs numpy, not torch."""
