"""Figures of the ablations in DeSAP's paper (arXiv 2604.11240): LLaVA-1.5-7B, 64 of 576 visual tokens kept.

Figures are quoted as printed. Model and data differ from ours, so only the order of rows compares.
The tables of the paper differ in the last digit: its task share of 100 % is 58.1 / 85.6 / 1686 in table 4 (a) and
58.3 / 85.7 / 1686 in table 5, its default 85.8 and 85.9 on POPE in tables 4 (a) and 4 (b). Figure 5 is a plot
without figures.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ALIGNMENT", "ATTENTION_SOURCE", "TASK_SHARE", "Table"]

# Benchmark to figure, by row. GQA, POPE, SQA and VQA-T are per cent, MME is points.
Table = dict[str, dict[str, str]]

TASK_SHARE: Final[Table] = {
    "0": {"GQA": "57.2", "POPE": "82.8", "MME": "1664"},
    "0.25": {"GQA": "57.8", "POPE": "85.3", "MME": "1728"},
    "0.5": {"GQA": "58.3", "POPE": "85.8", "MME": "1748"},
    "0.75": {"GQA": "58.2", "POPE": "85.8", "MME": "1740"},
    "1": {"GQA": "58.1", "POPE": "85.6", "MME": "1686"},
}

ATTENTION_SOURCE: Final[Table] = {
    "qkv": {"GQA": "58.1", "POPE": "85.2", "MME": "1741"},
    "qqv": {"GQA": "58.3", "POPE": "85.9", "MME": "1748"},
    "vvv": {"GQA": "58.2", "POPE": "85.8", "MME": "1697"},
    "kkv": {"GQA": "58.3", "POPE": "85.5", "MME": "1720"},
}

ALIGNMENT: Final[Table] = {
    "Vanilla-Simi": {"GQA": "50.2", "MME": "1355", "POPE": "72.1", "SQA": "66.5", "VQA-T": "46.2", "Avg.": "81.8%"},
    "Vanilla-Simi + alignment": {
        "GQA": "50.4",
        "MME": "1362",
        "POPE": "72.5",
        "SQA": "65.7",
        "VQA-T": "45.4",
        "Avg.": "81.7%",
    },
    "De-Simi": {"GQA": "58.0", "MME": "1667", "POPE": "85.2", "SQA": "68.5", "VQA-T": "52.3", "Avg.": "94.0%"},
    "De-Simi + alignment": {
        "GQA": "58.3",
        "MME": "1686",
        "POPE": "85.7",
        "SQA": "68.9",
        "VQA-T": "53.5",
        "Avg.": "94.9%",
    },
}
