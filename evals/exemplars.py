"""Exemplars: solved questions that stand before the own one. Written for this project, in the form that papers use.

The published exemplars of chain-of-thought papers are not repeated here; `--exemplars FILE` takes those, or any.
"""

from __future__ import annotations

from typing import NamedTuple


class Exemplar(NamedTuple):
    """A question, the reasoning, and the final answer as it is to be written."""

    question: str
    reasoning: str
    answer: str


NUMBERS = (
    Exemplar(
        "A baker fills 4 trays with 12 rolls each and sells 30 rolls. How many rolls are left?",
        "4 trays of 12 rolls are 4 * 12 = 48 rolls. After 30 are sold, 48 - 30 = 18 are left.",
        "18",
    ),
    Exemplar(
        "Mira reads 15 pages on each of 6 days and 20 pages on the seventh. How many pages does she read?",
        "On six days she reads 6 * 15 = 90 pages. With the seventh day it is 90 + 20 = 110 pages.",
        "110",
    ),
    Exemplar(
        "A bus has 52 seats. At the first stop 19 people get on, at the second 24 more, and 7 get off. "
        "How many seats are free?",
        "After the two stops 19 + 24 = 43 people are on the bus, less 7 is 36. So 52 - 36 = 16 seats are free.",
        "16",
    ),
    Exemplar(
        "Pens cost $3 a box and notebooks $5 each. Jo buys 4 boxes of pens and 2 notebooks with a $50 bill. "
        "How many dollars are given back?",
        "The pens cost 4 * 3 = 12 dollars and the notebooks 2 * 5 = 10, together 22. From 50 remain 50 - 22 = 28.",
        "28",
    ),
    Exemplar(
        "A tank holds 240 litres and is a quarter full. A pump adds 12 litres a minute. How long until it is full?",
        "A quarter of 240 is 60 litres, so 240 - 60 = 180 litres are missing. At 12 a minute that takes 180 / 12 = 15.",
        "15",
    ),
    Exemplar(
        "Of 80 seedlings 15 percent die and half of the others are sold. How many seedlings remain?",
        "15 percent of 80 is 12, so 80 - 12 = 68 live. Half of them, 34, are sold, and 68 - 34 = 34 remain.",
        "34",
    ),
    Exemplar(
        "Tom is 3 times as old as his sister, who is 7. How old will Tom be in 5 years?",
        "Tom is 3 * 7 = 21 years old. In 5 years he will be 21 + 5 = 26.",
        "26",
    ),
    Exemplar(
        "A rope of 36 metres is cut into pieces of 4 metres, and 3 pieces are thrown away. How many pieces are kept?",
        "There are 36 / 4 = 9 pieces. Without the 3 thrown away, 9 - 3 = 6 are kept.",
        "6",
    ),
)
"""Eight, as the paper has for GSM8K."""

CHOICES = (
    Exemplar(
        "Where do you keep milk so that it stays fresh?\n"
        "Choices: (A) oven (B) refrigerator (C) drawer (D) shoe (E) lamp",
        "Milk stays fresh in the cold, and of these only a refrigerator is cold.",
        "(B)",
    ),
    Exemplar(
        "What do people use to write on a blackboard?\nChoices: (A) chalk (B) soap (C) thread (D) butter (E) sand",
        "One writes on a blackboard with chalk.",
        "(A)",
    ),
    Exemplar(
        "What is somebody likely to feel after losing a wallet?\n"
        "Choices: (A) hunger (B) pride (C) worry (D) sleep (E) calm",
        "A lost wallet means lost money and papers, about which people worry.",
        "(C)",
    ),
    Exemplar(
        "Where would you look for a fish that nobody keeps?\n"
        "Choices: (A) aquarium (B) plate (C) shop (D) river (E) sky",
        "A fish that nobody keeps lives free in water, so in a river.",
        "(D)",
    ),
    Exemplar(
        "What must you have before you can board a plane?\n"
        "Choices: (A) piano (B) garden (C) horse (D) anchor (E) ticket",
        "Nobody boards a plane without a ticket.",
        "(E)",
    ),
    Exemplar(
        "What does a gardener do when the soil is dry?\n"
        "Choices: (A) water it (B) paint it (C) fold it (D) sing (E) sell it",
        "Dry soil lacks water, so the gardener gives it water.",
        "(A)",
    ),
    Exemplar(
        "Why do people wear a helmet on a bicycle?\nChoices: (A) warmth (B) speed (C) safety (D) music (E) weight",
        "A helmet protects the head in a fall, which is about safety.",
        "(C)",
    ),
)
"""Seven, as the paper has for CommonsenseQA."""
