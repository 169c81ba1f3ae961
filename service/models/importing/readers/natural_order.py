"""The order of names with numbers in them."""

import re


def natural_sort_key(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts `lstm_2` before `lstm_10`."""
    parts = re.split(r"(\d{1,9})", name)
    return [(int(part) if part.isdecimal() and part.isascii() else -1, part) for part in parts]
