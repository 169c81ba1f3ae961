"""What survives: a recurrent state and the tokens that made it."""
