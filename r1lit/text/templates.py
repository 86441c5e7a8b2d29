"""Prompt templates for models that have no chat template of their own."""

from __future__ import annotations

R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, "
    "i.e., <think> reasoning process here </think> <answer> answer here </answer>. User: {prompt}. Assistant:"
)
"""DeepSeek-R1-Zero's template (arXiv 2501.12948, table 1): kept minimal on purpose, to watch what emerges."""

TEMPLATES = {"r1_zero": R1_ZERO, "none": "{prompt}"}
"""Templates by name; ``none`` gives the model the prompt as it stands."""


def render(template: str, prompt: str) -> str:
    """Put a question into a template by name, or into a template text that holds ``{prompt}``.

    >>> render("none", "What is {x}?")
    'What is {x}?'
    >>> render("Q: {prompt} A:", "1+1")
    'Q: 1+1 A:'
    """
    return TEMPLATES.get(template, template).replace("{prompt}", prompt, 1)
