from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

from r1lit.data.asking import ChoicesSettings, UnusableRowError, asked, filled, offered
from r1lit.data.files import DataError
from r1lit.data.settings import SourceSettings
from r1lit.data.sources import read_rows
from r1lit.settings import ConfigError, parse

GPQA = ["Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"]


def source(tmp_path, *rows, **settings):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceSettings(path=str(path), **settings)


@pytest.mark.parametrize(
    ("text", "columns", "made"),
    [
        ("{problem}", {"problem": "2+2"}, "2+2"),
        ("{a}{b}{a}", {"a": "1", "b": "2"}, "121"),
        (r"{problem} \boxed{}", {"problem": "p"}, r"p \boxed{}"),
        (r"{problem} \boxed{{ANSWER}} {{x}}", {"problem": "p", "x": 1}, r"p \boxed{ANSWER} {x}"),
        ("{Correct Answer}, {level}", {"Correct Answer": "yes", "level": 3}, "yes, 3"),
        # what a column holds is text, whatever it looks like
        ("{a}", {"a": "{b} {a} {{c}} {0} \\1", "b": "no"}, "{b} {a} {{c}} {0} \\1"),
        # attributes and items of a column are no columns
        ("{1, 2} {a[0]} {a!r} { a }", {"a": "x"}, "{1, 2} {a[0]} {a!r} { a }"),
        ("{问题}", {"问题": "几"}, "几"),
    ],
)
def test_places_are_filled_once(text, columns, made):
    assert filled(text, columns) == made


@pytest.mark.parametrize("text", ["{problm}", "{problem.upper}", "{ANSWER}", "{answer_index }"])
def test_a_place_without_a_column_is_told_of(text):
    with pytest.raises(UnusableRowError, match=r"no column .*, which is asked for; the row has problem; where ask"):
        filled(text, {"problem": "p"})


@pytest.mark.parametrize("value", [["a"], {"a": 1}, True, b"a"])
def test_only_texts_and_numbers_are_put_in(value):
    with pytest.raises(UnusableRowError, match="and no text") as error:
        filled("{a}", {"a": value})
    assert error.value.reason == "bad column"


def test_the_first_text_without_an_empty_column_asks():
    texts = ["{q} begin with {stub}", "{q} from nothing"]
    assert asked({"q": "Sort.", "stub": "def f"}, texts, None, False)["prompt"] == "Sort. begin with def f"
    for stub in ("", " \n", None):
        assert asked({"q": "Sort.", "stub": stub}, texts, None, False)["prompt"] == "Sort. from nothing"
    with pytest.raises(UnusableRowError, match="q is empty"):
        asked({"q": "", "stub": "x"}, texts, None, False)


def test_a_prompt_may_be_a_users_message():
    assert asked({"q": "Hi"}, "{q}!", None, True)["prompt"] == [{"role": "user", "content": "Hi!"}]
    assert asked({"prompt": "Hi"}, None, None, True)["prompt"] == [{"role": "user", "content": "Hi"}]
    said = [{"role": "user", "content": "Hi"}]
    assert asked({"prompt": said}, None, None, True)["prompt"] is said


@pytest.mark.parametrize("right", ["B", "b", "(B)", "B.", 1, "1"])
def test_a_column_says_which_option_is_right(right):
    row = {"question": "2+2?", "options": ["3", 4, "5"], "key": right}
    choices = ChoicesSettings(options="options", right="key")
    made = asked(row, "{question}\n{choices}", choices, False)
    assert made["prompt"] == "2+2?\nA) 3\nB) 4\nC) 5"
    assert (made["answer"], made["verifier"]) == ("B", "choice")
    assert {name: made[name] for name in row} == row


def test_ten_options_have_letters():
    row = {"options": list("abcdefghij"), "right": 9}
    options, right = offered(row, ChoicesSettings(options="options", right="right"))
    assert (options, right) == (list("abcdefghij"), 9)
    assert asked(row, "{choices}", ChoicesSettings(options="options", right="right"), False)["answer"] == "J"


@pytest.mark.parametrize(
    ("row", "reason", "said"),
    [
        ({"options": ["a"], "right": 0}, "bad options", "there are 1 options; 2 to 10 have letters"),
        ({"options": [str(n) for n in range(11)], "right": 0}, "bad options", "there are 11 options"),
        ({"options": "abc", "right": 0}, "bad options", "options='abc' is no list of options"),
        ({"options": ["a", " "], "right": 0}, "bad options", "option 2 of 2 is empty"),
        ({"options": ["a", None], "right": 0}, "bad options", "option 2 of 2 is empty"),
        ({"options": ["a", ["b"]], "right": 0}, "bad column", "is a list, and no text"),
        ({"options": ["a", "b"], "right": 2}, "bad options", "right=2 names none of 2 options"),
        ({"options": ["a", "b"], "right": -1}, "bad options", "right=-1 names none of 2 options"),
        ({"options": ["a", "b"], "right": "C"}, "bad options", "right='C' names none of 2 options"),
        ({"options": ["a", "b"], "right": True}, "bad options", "right=True names none"),
        ({"options": ["a", "b"], "right": None}, "bad options", "right=None names none"),
        ({"options": ["a", "b"], "right": 1.0}, "bad options", "right=1.0 names none"),
        ({"options": ["a", "b"]}, "missing column", "no column right"),
        ({"right": 0}, "missing column", "no column options"),
        ({"options": ["a", "b", "a "], "right": 0}, "repeated option", "the right option, 'a', is there twice"),
    ],
)
def test_options_that_cannot_be_asked_are_counted_by_reason(tmp_path, row, reason, said):
    made = source(tmp_path, row, ask="{choices}", choices={"options": "options", "right": "right"})
    (bad,) = read_rows(made)
    assert bad.problem[0] == reason
    assert said in bad.problem[1]


def gpqa(number):
    return {"Question": f"Q{number}?"} | {name: f"{name} {number}" for name in GPQA}


def test_the_first_column_is_right_where_none_says_so_and_ends_anywhere(tmp_path):
    rows = [gpqa(number) for number in range(400)]
    made = source(tmp_path, *rows, ask="{Question}\n\n{choices}", choices={"options": GPQA})
    found = [row.columns for row in read_rows(made)]
    for number, columns in enumerate(found):
        question, _, *options = columns["prompt"].split("\n")
        assert question == f"Q{number}?"
        assert f"{columns['answer']}) Correct Answer {number}" in options
        assert sorted(option[3:] for option in options) == sorted(f"{name} {number}" for name in GPQA)
    # 100 of each are expected; five standard deviations (8.7) either way
    counts = Counter(columns["answer"] for columns in found)
    assert set(counts) == set("ABCD")
    assert all(56 < count < 144 for count in counts.values())


def test_the_order_is_the_same_in_every_process_and_for_every_order_of_the_columns():
    program = (
        "from r1lit.data.asking import *\n"
        f"row = {gpqa(7)!r}\n"
        f"print(offered(row, ChoicesSettings(options={GPQA!r})))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True)
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout != ""
    options, right = offered(gpqa(7), ChoicesSettings(options=GPQA))
    swapped = ChoicesSettings(options=[GPQA[0], *reversed(GPQA[1:])])
    assert offered(gpqa(7), swapped) == (options, right)
    assert str((options, right)) == runs[0].stdout.strip()


def test_options_with_a_key_may_be_shuffled_too():
    row = {"options": list("wxyz"), "right": "C"}
    plain = offered(row, ChoicesSettings(options="options", right="right"))
    shuffled = offered(row, ChoicesSettings(options="options", right="right", shuffle=True))
    assert plain == (list("wxyz"), 2)
    assert sorted(shuffled[0]) == list("wxyz") and shuffled[0] != list("wxyz")
    assert shuffled[0][shuffled[1]] == "y"


def test_names_are_those_after_columns_and_constants(tmp_path):
    made = source(
        tmp_path,
        {"body": "p", "gold": 4},
        columns={"problem": "body", "answer": "gold"},
        constants={"task": "maths"},
        ask="{task}: {problem}",
    )
    assert [row.columns for row in read_rows(made)] == [
        {"prompt": "maths: p", "problem": "p", "answer": 4, "task": "maths"}
    ]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"path": "a/b", "ask": "What is 2+2?"}, "has no place for a column; write its name in braces"),
        ({"path": "a/b", "ask": []}, "ask=[] asks nothing"),
        ({"path": "a/b", "ask": ["{q}", "none"]}, "ask='none' has no place for a column"),
        ({"path": "a/b", "ask": "{q}", "choices": {"options": "o"}}, "has no place for the options; put {choices}"),
        ({"path": "a/b", "choices": {"options": "o"}}, "no text to ask them in; set ask to one with {choices}"),
        ({"path": "a/b", "ask": "{choices}", "choices": {}}, "options is missing"),
        ({"hub": "no such name!"}, "no such name! is no name on the hub; write OWNER/NAME"),
        ({"hub": "a/b", "generator": "talk"}, "hub=a/b and generator=talk given"),
        ({"hub": "a/b", "size": 3}, "size have no meaning with hub=a/b"),
        ({"path": "a/b", "files": ["x.json"]}, "hub is not set; set hub=OWNER/NAME"),
    ],
)
def test_mistakes_name_the_key_and_the_remedy(values, said):
    with pytest.raises(ConfigError) as error:
        parse({"source": SourceSettings}, {"source": values})
    assert any(said in problem for problem in error.value.problems), error.value.problems


def test_a_copy_of_a_data_set_is_read_as_it_is_laid_out(tmp_path):
    rows = [{"prompt": "p"}]
    whole = source(tmp_path, *rows)
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("one", "two", "three"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"prompt": name}) + "\n")

    def prompts(**settings):
        return [row.columns["prompt"] for row in read_rows(SourceSettings(hub="some/name", **settings))]

    # One file has neither subset nor split, though the data set it is a copy of has.
    assert prompts(path=whole.path, subset="main", split="test", files=["test.jsonl"]) == ["p"]
    assert prompts(path=str(folder), files=["two.jsonl", "one.jsonl"]) == ["two", "one"]
    with pytest.raises(DataError, match="no split=test"):
        prompts(path=str(folder), split="test")


def test_a_json_file_may_be_one_list(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('\n [{"prompt": "a"}, {"prompt": "b"}, 3]')
    rows = list(read_rows(SourceSettings(path=str(path))))
    assert [row.columns.get("prompt") for row in rows] == ["a", "b", None]
    assert [row.origin for row in rows] == [f"{path}:{number}" for number in (1, 2, 3)]
    assert rows[2].problem[0] == "not an object"
    path.write_text('[{"prompt": "a"}, {"prom')
    with pytest.raises(DataError, match="begins as a JSON list, but cannot be read"):
        list(read_rows(SourceSettings(path=str(path))))
