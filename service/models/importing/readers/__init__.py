"""One file a format: bytes → config and arrays that are read when asked for."""
