"""Functions of the task `lab_scenes`, which lmms-eval imports by this file's name."""

from __future__ import annotations

from typing import Any


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    """Images of a question."""
    return [doc["image"].convert("RGB")]


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, str]) -> str:
    """Text of a question."""
    return f"{lmms_eval_specific_kwargs['pre_prompt']}{doc['question']}{lmms_eval_specific_kwargs['post_prompt']}"


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score of an answer."""
    return {"exact_match": float(results[0].strip(" \n.,!?").lower() == doc["answer"].lower())}
