"""What is served: from a checkpoint file to a loaded step program."""
