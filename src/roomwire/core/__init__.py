"""The sans-IO core: no clock, loop, socket, log, randomness or environment; ``now`` is an argument."""
