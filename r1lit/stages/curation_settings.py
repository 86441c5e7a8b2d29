"""Settings of the stages that make demonstrations out of what models say."""

from __future__ import annotations

from r1lit.settings import Settings


class CollectSettings(Settings):
    """Cold-start demonstrations."""


class RejectSettings(Settings):
    """Rejection sampling."""
