"""Registrations by their users, whatever the type of resource."""
