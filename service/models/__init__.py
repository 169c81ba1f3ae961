"""Models: specifications, cells, bundles, compiled programs, the registry, importing."""
