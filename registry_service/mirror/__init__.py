"""The registry's own copy of its store, and all who watch it."""
