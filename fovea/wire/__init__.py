"""Visual tokens as they travel: `Tensor` messages, wire formats, codecs, bases. numpy alone."""
