"""Names of all that a scene may show: kinds of objects with their emoji, distractors, colours, and words on signs."""

from __future__ import annotations

from typing import Final

# Kind to emoji, by category. Names are one word each, and none is the name of a colour.
_CATEGORIES: Final[dict[str, dict[str, str]]] = {
    "animal": {
        "dog": "🐶", "cat": "🐱", "mouse": "🐭", "rabbit": "🐰", "fox": "🦊", "bear": "🐻", "panda": "🐼",
        "tiger": "🐯", "lion": "🦁", "cow": "🐮", "pig": "🐷", "frog": "🐸", "monkey": "🐵", "chicken": "🐔",
        "penguin": "🐧", "owl": "🦉", "fish": "🐟", "octopus": "🐙", "whale": "🐳", "turtle": "🐢", "snail": "🐌",
        "butterfly": "🦋", "bee": "🐝", "elephant": "🐘", "horse": "🐴", "crab": "🦀",
    },
    "fruit": {
        "apple": "🍎", "pear": "🍐", "lemon": "🍋", "banana": "🍌", "watermelon": "🍉", "strawberry": "🍓",
        "cherry": "🍒", "peach": "🍑", "pineapple": "🍍", "kiwi": "🥝", "coconut": "🥥", "mango": "🥭",
    },
    "vehicle": {
        "car": "🚗", "bus": "🚌", "truck": "🚚", "tractor": "🚜", "bicycle": "🚲", "motorcycle": "🏍", "train": "🚂",
        "airplane": "✈", "helicopter": "🚁", "rocket": "🚀", "sailboat": "⛵", "ship": "🚢", "scooter": "🛴",
        "canoe": "🛶",
    },
    "tool": {
        "hammer": "🔨", "saw": "🪚", "wrench": "🔧", "screwdriver": "🪛", "axe": "🪓", "key": "🔑", "pencil": "✏",
        "paintbrush": "🖌", "ladder": "🪜", "magnet": "🧲", "broom": "🧹", "bucket": "🪣", "flashlight": "🔦",
        "microscope": "🔬",
    },
    "thing": {
        "clock": "⏰", "umbrella": "☂", "guitar": "🎸", "drum": "🥁", "trumpet": "🎺", "balloon": "🎈", "book": "📕",
        "bell": "🔔", "cactus": "🌵", "mushroom": "🍄", "crown": "👑", "house": "🏠",
    },
}  # fmt: skip

EMOJI: Final = {kind: emoji for kinds in _CATEGORIES.values() for kind, emoji in kinds.items()}
CATEGORY: Final = {kind: category for category, kinds in _CATEGORIES.items() for kind in kinds}
"""Category of each kind. Nothing is asked about the category "thing"."""
KINDS: Final = tuple(EMOJI)
CATEGORIES: Final = ("animal", "fruit", "vehicle", "tool")
SIGN: Final = "sign"
OBJECT_KINDS: Final = (*KINDS, SIGN)

# Large and conspicuous, named in descriptions, never asked about, and of no kind that is asked about.
DISTRACTOR_EMOJI: Final = {
    "pizza": "🍕", "donut": "🍩", "globe": "🌍", "sunflower": "🌻", "gift": "🎁", "pumpkin": "🎃", "snowman": "⛄",
    "castle": "🏰",
}  # fmt: skip
DISTRACTORS: Final = tuple(DISTRACTOR_EMOJI)

COLORS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (222, 32, 38), "orange": (250, 128, 10), "yellow": (246, 214, 16), "green": (30, 150, 46),
    "cyan": (20, 205, 215), "blue": (28, 70, 220), "purple": (130, 40, 176), "pink": (248, 120, 190),
}  # fmt: skip
GREY: Final = (128, 128, 128)
"""Tint of distractors in tinted scenes, which is no answer to a question about a colour."""

WORDS: Final = (
    "BUS", "CAFE", "EXIT", "FARM", "FISH", "GATE", "HELP", "HOME", "KIDS", "LAKE", "MENU", "NEWS", "OPEN", "PARK",
    "POST", "SALE", "SHOP", "STOP", "TAXI", "TEA", "TOLL", "WALK", "WEST", "ZOO",
)  # fmt: skip
"""Words on signs. The others have a number from `FIRST_NUMBER` to `LAST_NUMBER`."""
FIRST_NUMBER: Final = 10
LAST_NUMBER: Final = 99
TEXTS: Final = (*WORDS, *(str(number) for number in range(FIRST_NUMBER, LAST_NUMBER + 1)))
GLYPHS: Final = tuple(sorted(set("".join(WORDS)) | set("0123456789")))

_PLURALS = {"mouse": "mice", "fish": "fish", "butterfly": "butterflies", "strawberry": "strawberries"}
_PLURALS |= {"cherry": "cherries", "cactus": "cacti"}


def plural(name: str) -> str:
    """Plural of a name: "red foxes", "cherries", "mice"."""
    head, _, noun = name.rpartition(" ")
    several = _PLURALS.get(noun) or (f"{noun}es" if noun.endswith(("s", "x")) else f"{noun}s")
    return f"{head} {several}".strip()
