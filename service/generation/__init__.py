"""How text is made: one continuous batch per loaded model."""
