"""The routes of Text Generation Inference: /generate, /generate_stream and /."""
