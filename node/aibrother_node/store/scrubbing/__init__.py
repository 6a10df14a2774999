"""Blobs that decay: found, taken out of service at once, repaired."""
