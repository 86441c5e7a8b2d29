"""SAMPLES -> DEMONSTRATIONS: what is kept of what a model said, in which form, and what is mixed in."""
