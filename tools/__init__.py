"""Scripts for people who work on Carousel; no part of what is installed."""
