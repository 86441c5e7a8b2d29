"""Names of languages to their ISO 639-1 codes."""

from __future__ import annotations

from r1lit.settings import suggest

NAMES = {
    "af": "afrikaans",
    "am": "amharic",
    "ar": "arabic",
    "bg": "bulgarian",
    "bn": "bengali",
    "bo": "tibetan",
    "ca": "catalan",
    "cs": "czech",
    "cy": "welsh",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "es": "spanish",
    "et": "estonian",
    "fa": "persian",
    "fi": "finnish",
    "fr": "french",
    "gu": "gujarati",
    "he": "hebrew",
    "hi": "hindi",
    "hr": "croatian",
    "hu": "hungarian",
    "hy": "armenian",
    "id": "indonesian",
    "it": "italian",
    "ja": "japanese",
    "ka": "georgian",
    "km": "khmer",
    "kn": "kannada",
    "ko": "korean",
    "lo": "lao",
    "lt": "lithuanian",
    "lv": "latvian",
    "mk": "macedonian",
    "ml": "malayalam",
    "mr": "marathi",
    "my": "burmese",
    "ne": "nepali",
    "nl": "dutch",
    "no": "norwegian",
    "or": "odia",
    "pa": "punjabi",
    "pl": "polish",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "si": "sinhala",
    "sk": "slovak",
    "sl": "slovenian",
    "so": "somali",
    "sq": "albanian",
    "sv": "swedish",
    "sw": "swahili",
    "ta": "tamil",
    "te": "telugu",
    "th": "thai",
    "tl": "tagalog",
    "tr": "turkish",
    "uk": "ukrainian",
    "ur": "urdu",
    "vi": "vietnamese",
    "zh": "chinese",
}
"""The languages that can be told, by ISO 639-1 code."""

_ALIASES = {
    "bokmål": "no",
    "castilian": "es",
    "farsi": "fa",
    "filipino": "tl",
    "iw": "he",
    "mandarin": "zh",
    "nb": "no",
    "nn": "no",
    "中文": "zh",
    "汉语": "zh",
    "日本語": "ja",
    "한국어": "ko",
    "deutsch": "de",
    "español": "es",
    "français": "fr",
    "italiano": "it",
    "português": "pt",
    "русский": "ru",
}
_CODES = {code: code for code in NAMES} | {name: code for code, name in NAMES.items()} | _ALIASES


def language_code(name: str) -> str:
    """The ISO 639-1 code of a language given by code, locale or name.

    Raises:
        ValueError: for a name that is no language here, with the nearest ones.

    >>> [language_code(name) for name in ("en", "English", "zh-cn", "pt_BR", " Chinese ")]
    ['en', 'en', 'zh', 'pt', 'zh']
    >>> language_code("Spansh")
    Traceback (most recent call last):
    ...
    ValueError: language='Spansh' is none that can be told; did you mean spanish or danish?
    """
    wanted = str(name).strip().casefold()
    code = _CODES.get(wanted) or _CODES.get(wanted.replace("_", "-").partition("-")[0])
    if code is None:
        raise ValueError(f"language={name!r} is none that can be told; {suggest(wanted, _CODES)}")
    return code
