"""What adapters of remote servers share: HTTP, keys, the meaning of errors, lists of models."""
