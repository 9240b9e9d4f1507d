"""How nodes share events, history, presence and leases."""
