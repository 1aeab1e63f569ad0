"""Numbers in English words, as prompts of published models have them."""

from __future__ import annotations

SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
    "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def words(number: int) -> str:
    """From 0 to 999,999: `one hundred and one`, `two thousand, three hundred and forty-five`."""
    if number < 20:
        return SMALL[number]
    if number < 100:
        ten, one = divmod(number, 10)
        return TENS[ten - 2] + (f"-{SMALL[one]}" if one else "")
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    most, rest = divmod(number, size)
    between = " and " if rest < 100 else ", "
    return f"{words(most)} {name}" + (between + words(rest) if rest else "")
