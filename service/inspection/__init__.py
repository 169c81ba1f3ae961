"""The look inside a cell: the gates and states of a model while it reads a text."""
