"""Fuzzing: whatever reads bytes that a stranger wrote is fed what no stranger would think of.

    python -m tests.fuzz --inputs 1000000 --seed 1 [--target frames] [--coverage]

harness.py    runs inputs against a target: allowed exceptions, growth of memory, a report, the input of a failure
mutation.py   how inputs are made: from seeds, changed at random
targets.py    the table of targets
frames.py     the WebSocket machine; the other parsers are in parsers.py, what comes from a backplane in backplane.py
live.py       a server that really runs, and others that it goes on serving
guided.py     the same targets under atheris, which looks for inputs that reach new code
"""
