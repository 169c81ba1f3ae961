"""What a text must look like, as automata over a model's own characters."""
