"""Text generation: one continuous batch per loaded model."""
