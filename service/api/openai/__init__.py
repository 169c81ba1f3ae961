"""OpenAI's routes, completions and models, with vLLM's parameters and those of sessions."""
