"""Desired state: which models every process of one store loads, and the aliases that all have."""
