"""Ray Serve: replicas of the service on many machines, placed by Ray, which is an extra."""
