"""Compares the node, alternately in one run, with nginx, `sha256sum` and aria2c; see README.md."""
