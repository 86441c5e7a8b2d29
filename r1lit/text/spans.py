"""Which language each word of a shared script is in: English or Spanish, Russian or Bulgarian, Arabic or Persian.

Small words (`function_words`) speak for their languages, a detector for clauses in which they do not decide, and the
words around for what is too short for either: the labels are the path through the words that agrees best with all that
speaks for a language, where each change of language costs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

from r1lit.text.detectors import LANGUAGES, detect_span
from r1lit.text.function_words import speaking_for
from r1lit.text.scripts import CASED, Word

SWITCH = (1.2, 0.8, 0.5)
"""What a change of language costs, in small words that speak for it: within a clause, between clauses, sentences."""

CLEAR, CERTAIN = 0.6, 0.9
"""The probability from which a detector's verdict counts, on a clause that holds a small word of its language and on
one that does not: a sentence has small words."""

FEWEST, LEAST = 4, 0.1
"""The words, and the share of all words, that clauses must have together for the detector alone to bring a language
in: of many clauses without small words it misjudges a few."""


class SharedScript:
    """The words of a text in one script that several languages share.

    Args:
        found: all words of the text, those of other scripts too.
        script: the script.
        expected: the language that is likeliest, as an ISO 639-1 code.
        detector: ``langdetect`` or ``lingua``.
    """

    def __init__(self, found: Sequence[Word], script: str, expected: str | None = None, detector: str = "langdetect"):
        self._found, self._script, self._detector = found, script, detector
        self._expected = expected if expected in LANGUAGES[script] else None
        self._table = speaking_for(script)
        self._places = [place for place, word in enumerate(found) if word.script == script]
        self._spoken = {place: self._languages_of(found[place].text) for place in self._places}
        self._foreign = self._foreign_sentences()
        clauses = list(self._split())
        self._strays = [clause for clause in clauses if self._is_stray(clause)]
        self._clauses = [clause for clause in clauses if not self._is_stray(clause)]

    def labels(self) -> dict[int, str | None]:
        """The language of each word, by its place among all; None for what is no word after all: a variable, or a
        name amid another script."""
        candidates = self._candidates()
        labels: dict[int, str | None] = dict(self._path(candidates))
        labels |= {place: candidates[0] for clause in self._strays for place in clause}
        if self._script in CASED:
            strays = (place for clause in self._strays for place in clause)
            labels |= {place: None for place in strays if self._is_neutral(self._found[place])}
            labels |= {place: None for place in self._places if self._is_variable(place, labels[place])}
        return labels

    def _languages_of(self, text: str) -> tuple[str, ...]:
        """The languages a word speaks for; a letter alone may be a variable and speaks for none."""
        if len(text) == 1:
            return ()
        key = _key(text)
        return self._table.get(key) or self._table.get(key[: key.find("'") + 1], ())

    def _is_neutral(self, word: Word) -> bool:
        """True for a variable or, going by its capital, a name; of a word amid another script."""
        return word.operand or len(word.text) == 1 or not word.text.islower()

    def _is_variable(self, place: int, language: str | None) -> bool:
        # "a" and "y" are words of some languages.
        text = self._found[place].text
        return len(text) == 1 and language not in self._table.get(_key(text), ())

    def _split(self) -> Iterator[list[int]]:
        clause: list[int] = []
        for place in self._places:
            if clause and (place != clause[-1] + 1 or self._found[place].gap):
                yield clause
                clause = []
            clause.append(place)
        if clause:
            yield clause

    def _foreign_sentences(self) -> set[int]:
        """The places of this script's words in sentences that are mostly in another."""
        sentences = list(accumulate(word.gap == 2 for word in self._found))
        excess: Counter[int] = Counter()
        for sentence, word in zip(sentences, self._found, strict=True):
            # A letter alone is a variable in any script.
            if not (word.script in CASED and len(word.text) == 1):
                excess[sentence] += -word.count if word.script == self._script else word.count
        return {place for place in self._places if excess[sentences[place]] > 0}

    def _is_stray(self, clause: Sequence[int]) -> bool:
        """True for a few words in a sentence of another script, none of which speaks for a language."""
        return len(clause) <= 3 and clause[0] in self._foreign and not any(self._spoken[place] for place in clause)

    def _candidates(self) -> list[str]:
        """The languages that this text may hold, the likeliest first; never empty."""
        words = [(self._found[place].text, self._spoken[place]) for clause in self._clauses for place in clause]
        speaking = [(text.lower(), languages) for text, languages in words if languages]
        chosen: list[str] = []
        while speaking:
            best = self._most_spoken(Counter(language for _, languages in speaking for language in languages))
            heard = {text for text, languages in speaking if best in languages}
            if chosen and len(heard) < 2:
                break
            chosen.append(best)
            # What one language explains speaks for no other.
            speaking = [(text, languages) for text, languages in speaking if best not in languages]
        if any(self._expected in languages for _, languages in speaking):
            chosen.append(self._expected)
        chosen += self._detected(chosen)
        return chosen or [self._guess()]

    def _guess(self) -> str:
        """The language where nothing is clear: the expected one, unless the detector sees nothing of it."""
        places = [place for clause in self._clauses for place in clause]
        likely = self._detect(places) if self._is_long(places) else {}
        likeliest = max(likely, key=lambda language: likely[language], default="")
        guess = self._expected or LANGUAGES[self._script][0]
        return guess if guess in likely else likeliest or guess

    def _most_spoken(self, votes: Counter[str]) -> str:
        """The language that most words speak for; where several come close, the expected one, unless the detector sees
        nothing of it, or else the detector's choice among them."""
        close = [language for language, count in votes.items() if count >= 0.9 * max(votes.values())]
        places = [place for clause in self._clauses for place in clause]
        likely = self._detect(places) if len(close) > 1 and self._is_long(places) else {}
        if self._expected in close and (not likely or self._expected in likely):
            return self._expected
        rank = LANGUAGES[self._script].index
        return max(close, key=lambda language: (likely.get(language, 0.0), votes[language], -rank(language)))

    def _detected(self, chosen: Sequence[str]) -> list[str]:
        """The languages that the detector finds in clauses where no small word speaks for one of the chosen."""
        total = sum(map(len, self._clauses))
        mute = [clause for clause in self._clauses if not any(set(self._spoken[place]) & {*chosen} for place in clause)]
        if not chosen:
            mute = [[place for clause in mute for place in clause]]
        weights: Counter[str] = Counter()
        for clause in filter(self._is_long, mute):
            likely = self._detect(clause)
            best = max(likely, key=lambda language: likely[language], default="")
            heard = any(best in self._spoken[place] for place in clause) or (not chosen and len(clause) > 2)
            if best and best not in chosen and likely[best] >= (CLEAR if heard else CERTAIN):
                weights[best] += len(clause)
        enough = min(total, max(FEWEST, LEAST * total))
        return [language for language, weight in weights.most_common() if weight >= enough]

    def _path(self, candidates: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Place and language along the best path (Viterbi's algorithm; a change costs the same between any two)."""
        places = [place for clause in self._clauses for place in clause]
        if len(candidates) == 1 or not places:
            yield from ((place, candidates[0]) for place in places)
            return
        support = {place: row for clause in self._clauses for place, row in self._support(clause, candidates)}
        numbers = range(len(candidates))
        # Nothing else decides between equals, so the expected language begins a little ahead.
        scores = [0.25 * (language == self._expected) for language in candidates]
        came_from: list[list[int]] = []
        for before, place in zip([places[0], *places], places, strict=False):
            cost = self._cost(before, place)
            best = max(numbers, key=lambda number: scores[number])
            origins = [number if scores[number] >= scores[best] - cost else best for number in numbers]
            scores = [max(scores[number], scores[best] - cost) + support[place][number] for number in numbers]
            came_from.append(origins)
        number = max(numbers, key=lambda number: scores[number])
        for place, origins in zip(reversed(places), reversed(came_from), strict=True):
            yield place, candidates[number]
            number = origins[number]

    def _cost(self, before: int, place: int) -> float:
        between = range(before + 1, place + 1)
        gap = max((self._found[each].gap for each in between), default=0)
        return SWITCH[max(gap, int(len(between) > 1))]

    def _support(self, clause: Sequence[int], candidates: Sequence[str]) -> Iterator[tuple[int, list[float]]]:
        """What speaks for each candidate at each place of a clause."""
        spoken = {place: [float(language in self._spoken[place]) for language in candidates] for place in clause}
        first, second, *_ = sorted(map(sum, zip(*spoken.values(), strict=True)), reverse=True)
        shares = [0.0] * len(candidates)
        if first - second < 2 and self._is_long(clause):
            likely = self._detect(clause)
            total = sum(likely.get(language, 0.0) for language in candidates) + 0.2
            strength = min(3.0, 0.5 * len(clause)) / len(clause) / total
            shares = [strength * likely.get(language, 0.0) for language in candidates]
        for place, row in spoken.items():
            yield place, [one + share for one, share in zip(row, shares, strict=True)]

    def _is_long(self, clause: Sequence[int]) -> bool:
        """True where a detector has something to go by."""
        return len(clause) >= 3 or sum(len(self._found[place].text) for place in clause) >= 12

    def _detect(self, places: Sequence[int]) -> dict[str, float]:
        return dict(detect_span(" ".join(self._found[place].text for place in places), self._script, self._detector))


def _key(text: str) -> str:
    # "I" is a word where "i" is a variable.
    return text if text == "I" else text.lower().replace("’", "'").replace("ʼ", "'")
