"""Reflection: its words, what the turns of a thought change, controls, and what turns are worth."""
