"""Sessions: token logs and recurrent states in Redis, which survive crashes of every process."""
