"""Carousel: serve recurrent language models."""
