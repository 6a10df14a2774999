"""The admin API: what operators and publishers do from afar, with tokens."""
