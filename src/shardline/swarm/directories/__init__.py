"""The Directory's engines, one file each."""
