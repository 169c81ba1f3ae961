"""Limits of requests, tokens and stored things for each key, and what each owner has used."""
