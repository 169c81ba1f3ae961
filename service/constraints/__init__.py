"""Constrained generation: regexes, JSON schemas and banned words as automata over tokens."""
