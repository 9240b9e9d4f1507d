"""How bytes get in and out: adapters between sockets, or a host, and the node's connections."""
