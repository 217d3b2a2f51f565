"""The one address clients know: finds out where a call goes, and takes it there."""
