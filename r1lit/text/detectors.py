"""How likely each language of a script is for a few words: langdetect, or lingua where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from langdetect.detector_factory import DetectorFactory
from langdetect.lang_detect_exception import ErrorCode, LangDetectException

from r1lit.settings import UserError, suggest
from r1lit.text.function_words import FAMILIES

LANGUAGES = {script: tuple(listed) for script, listed in FAMILIES.items()}
"""The languages to tell apart in a script that several share; words too few to tell are taken for the first."""

LONGEST = 400
"""Characters of a span that a detector looks at: more make it slower, not surer."""


def detect_span(text: str, script: str, detector: str = "langdetect") -> Mapping[str, float]:
    """The probability of each language for words of one script, by langdetect (seeded) or lingua; sums to 1, or empty
    where there is nothing to go by.

    Raises:
        ValueError: for a detector that does not exist.
        UserError: where lingua is asked for and not installed.
    """
    check_detector(detector)
    return DETECTORS[detector](text[:LONGEST], script)


def check_detector(name: str) -> None:
    """Nothing where a detector of that name exists.

    Raises:
        ValueError: where there is none.
    """
    if name not in DETECTORS:
        raise ValueError(f"detector={name!r} does not exist; {suggest(name, DETECTORS)}")


@lru_cache(maxsize=50_000)
def _langdetect(text: str, script: str) -> Mapping[str, float]:
    detector = _factory(script).create()
    detector.append(text.lower() if text.isupper() else text)
    # It draws n-grams until it is sure, which few words would make it as well: draw as many as there are.
    detector.ITERATION_LIMIT = len(text)
    try:
        found = {guess.lang: guess.prob for guess in detector.get_probabilities()}
    except LangDetectException as error:
        if error.code != ErrorCode.CantDetectError:
            raise
        # No n-gram of these words is in any profile.
        return {}
    total = sum(found.values())
    return {language: share / total for language, share in found.items()}


@cache
def _factory(script: str) -> Any:
    """langdetect with the profiles of one script alone, and a seed of its own: its module's state stays untouched."""
    factory = DetectorFactory()
    factory.set_seed(0)
    folder = files("langdetect") / "profiles"
    factory.load_json_profile([(folder / language).read_text("utf-8") for language in LANGUAGES[script]])
    return factory


@lru_cache(maxsize=50_000)
def _lingua(text: str, script: str) -> Mapping[str, float]:
    found = _lingua_detector(script).compute_language_confidence_values(text)
    shares = {_iso(guess.language): guess.value for guess in found if guess.value > 0}
    total = sum(shares.values())
    return {language: share / total for language, share in shares.items()}


@cache
def _lingua_detector(script: str) -> Any:
    try:
        from lingua import Language, LanguageDetectorBuilder
    except ImportError as error:
        raise UserError(
            "detector=lingua needs the package lingua-language-detector, which is not installed; "
            "pip install 'r1lit[lingua]', or set detector=langdetect"
        ) from error
    known = LANGUAGES[script]
    chosen = [language for language in sorted(Language.all(), key=str) if _iso(language) in known]
    return LanguageDetectorBuilder.from_languages(*chosen).build()


def _iso(language: Any) -> str:
    code = language.iso_code_639_1.name.lower()
    return "no" if code in ("nb", "nn") else code


DETECTORS: dict[str, Callable[[str, str], Mapping[str, float]]] = {"langdetect": _langdetect, "lingua": _lingua}
"""The detectors by name."""
