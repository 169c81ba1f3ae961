"""Readers, one file for each format: bytes → a config and arrays that are loaded on demand."""
