"""The verbs of the ``drcnn`` command, a module each: its options, and what it does with them."""
