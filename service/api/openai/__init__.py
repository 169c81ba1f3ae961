"""OpenAI's routes: completions and models, with what vLLM and people's clients add to them."""
