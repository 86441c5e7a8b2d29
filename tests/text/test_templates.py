from __future__ import annotations

import pytest

from r1lit.text.templates import R1_ZERO, TEMPLATES, render


def test_r1_zero_is_the_papers_one_line():
    assert "\n" not in R1_ZERO
    assert R1_ZERO.startswith("A conversation between User and Assistant. The user asks a question,")
    assert R1_ZERO.endswith("User: {prompt}. Assistant:")
    assert R1_ZERO.count("{prompt}") == 1


@pytest.mark.parametrize("template", [*TEMPLATES, "Q: {prompt}\nA:"])
@pytest.mark.parametrize("prompt", ["1+1", "{prompt}", "{}", "%s \\1 {x!r}", "braces {{a}}", ""])
def test_the_question_arrives_as_it_is(template, prompt):
    before, after = TEMPLATES.get(template, template).split("{prompt}")
    assert render(template, prompt) == before + prompt + after
