"""Fovea as a model of lmms-eval: `LMMS_EVAL_PLUGINS=lmms_eval_fovea` (docs/models.md has the whole command)."""
