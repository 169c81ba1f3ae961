"""The command `carousel`: its subcommands and what they print."""
