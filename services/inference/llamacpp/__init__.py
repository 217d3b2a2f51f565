"""llama.cpp in this process, for its adapter in `providers/llamacpp.py`."""
