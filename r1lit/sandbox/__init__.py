"""Runs Python programs that nobody trusts; knows nothing of rewards."""
