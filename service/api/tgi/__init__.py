"""Text Generation Inference's routes: /generate and /generate_stream."""
