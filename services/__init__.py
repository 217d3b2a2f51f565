"""The APIs of the stack, each a process of its own."""
