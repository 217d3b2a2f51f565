"""Servers of the OpenAI dialect: everything their adapters share."""
