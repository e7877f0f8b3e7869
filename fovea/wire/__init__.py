"""Wire formats of visual tokens: `Tensor` messages, codecs and learned bases; budgets in messages. Needs no torch."""
