"""What the mesh trusts: the typed registry, its stores, its leases and its watch."""
