"""Crash tests: power cuts, killed processes and damaged bytes, and what survives them."""
