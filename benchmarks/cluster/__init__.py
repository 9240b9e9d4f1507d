"""Two nodes and a store: one publishes on node A, all others are on node B.

`stacks` is what is compared, `load` opens and counts, `comparison` takes turns and makes the table; `publishing` is
one publish alone, without a node around it.
"""
