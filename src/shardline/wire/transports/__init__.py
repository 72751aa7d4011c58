"""Engines behind the Transport port; each is one file and one line in its conformance suite."""
