"""Measuring servers from outside: a load generator for any WebSocket server, and what ``roomwire bench`` runs.

`target` says whom to talk to and what to say, `load` opens the connections and runs a workload on them,
`figures` is what comes out. Nothing in it knows roomwire's protocol but `native` and `app`, so servers that are
written on other libraries are measured by the same generator.
"""
