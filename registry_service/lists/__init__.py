"""The services that list and watch."""
