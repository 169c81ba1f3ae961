"""Speed, always as a ratio to the article's own loop measured in the same run."""
