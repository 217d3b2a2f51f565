"""Inference: text from models, and vectors from text."""
