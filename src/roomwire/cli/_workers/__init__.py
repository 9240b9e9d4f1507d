"""Several processes on one address: a parent that listens, and workers that serve (docs/adr/0017-workers.md).

The parent loads the configuration and no application. It accepts the connections and hands each one to the worker
that has the fewest (`exchange`), starts the workers and starts them anew (`supervisor`). A worker is the same
command line with a `role.Worker` (`child`), and serves what it is handed.
"""
