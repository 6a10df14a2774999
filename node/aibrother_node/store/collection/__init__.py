"""Which blobs go, and that none goes that shouldn't (invariant 3)."""
