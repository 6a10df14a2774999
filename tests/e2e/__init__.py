"""The node as its users meet it: real processes, real sockets, real clients."""
