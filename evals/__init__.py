"""Measurements of the shipped model and of the swarm, by seeded generators and public tasks."""
