"""The classes that send requests; `_sync` is generated from `_async`, see generate_sync.py."""
