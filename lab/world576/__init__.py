"""The world of 576 tokens: scenes of known things on 336 x 336 images, and a CLIP and a LLaVA trained on them."""
