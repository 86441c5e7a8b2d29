"""A few rows of each evaluation set, with the set's own columns."""

from __future__ import annotations

import base64
import json
import pickle
import zlib


def packed(cases) -> str:
    """As LiveCodeBench packs its private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


AIME = [
    {"id": 60, "problem": "How long is the walk?", "solution": "So 204.", "answer": "204", "url": "u", "year": "2024"},
    {"id": 61, "problem": "Find {the} number.", "solution": "So 25.", "answer": "025", "url": "u", "year": "2024"},
    {"id": 62, "problem": "And now?", "solution": "So 0.", "answer": "0", "url": "u", "year": "2024"},
]
MATH = [
    {"problem": "Polar?", "solution": "s", "answer": r"\left( 3, \frac{\pi}{2} \right)", "subject": "Precalculus"},
    {"problem": "Sum?", "solution": "s", "answer": "p - q", "subject": "Algebra"},
    {"problem": "Who?", "solution": "s", "answer": r"\text{Evelyn}", "subject": "Algebra"},
    {"problem": "Angle?", "solution": "s", "answer": r"90^\circ", "subject": "Geometry"},
]
GPQA = [
    {
        "Question": f"Which of {number}?",
        "Correct Answer": f" right {number}\n",
        "Incorrect Answer 1": f"wrong {number}",
        "Incorrect Answer 2": f"false {number}",
        "Incorrect Answer 3": f"bad {number}",
        "Subdomain": "Physics",
        "Record ID": f"rec{number}",
        "Canary String": None,
    }
    for number in range(5)
]
MMLU_PRO = [
    {
        "question_id": number,
        "question": f"Which is {number}?",
        "options": [f"option {place}" for place in range(count)],
        "answer": "ABCDEFGHIJ"[right],
        "answer_index": right,
        "cot_content": "",
        "category": category,
        "src": "s",
    }
    for number, (count, right, category) in enumerate([(10, 9, "law"), (3, 0, "math"), (4, 2, "law")])
]

IFEVAL = [
    {
        "key": 1000,
        "prompt": "Write about tea, in at least 5 words. Use no commas.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [
            {"num_words": None, "relation": None, "end_phrase": None},
            {"num_words": 5, "relation": "at least", "end_phrase": None},
        ],
    },
    {
        "key": 1001,
        "prompt": "Say bye. End with: The end",
        "instruction_id_list": ["startend:end_checker"],
        "kwargs": [{"num_words": None, "relation": None, "end_phrase": "The end"}],
    },
    {
        "key": 1002,
        "prompt": "Fill in a form with 1 placeholder.",
        "instruction_id_list": ["detectable_content:number_placeholders"],
        "kwargs": [{"num_words": None, "relation": None, "end_phrase": None, "num_placeholders": 1}],
    },
]
LIVECODEBENCH = [
    {
        "question_title": "Sum",
        "question_content": "Add two numbers {a} and {b}.",
        "platform": "atcoder",
        "question_id": "abc1",
        "contest_date": "2024-10-05T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
        "private_test_cases": packed([{"input": "5 5\n", "output": "10\n", "testtype": "stdin"}]),
        "metadata": "{}",
    },
    {
        "question_title": "Top",
        "question_content": "Find the largest.",
        "platform": "leetcode",
        "question_id": "2",
        "contest_date": "2024-11-05T00:00:00",
        "starter_code": "class Solution:\n    def top(self, items: List[int]) -> int:\n        ",
        "difficulty": "easy",
        "public_test_cases": json.dumps([{"input": "[1, 3, 2]", "output": "3", "testtype": "functional"}]),
        "private_test_cases": packed([{"input": "[7, 3]", "output": "7", "testtype": "functional"}]),
        "metadata": json.dumps({"func_name": "top"}),
    },
]
OPEN_ENDED = [
    {"instruction": f"Tell me of {thing}.", "output": f"A text of {thing}.", "generator": "gpt4", "dataset": "helpful"}
    for thing in ("tea", "cups", "spoons")
]
