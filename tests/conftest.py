"""For every test: Hypothesis asserts no times, as nothing here does."""

from hypothesis import settings

settings.register_profile("mesh", deadline=None)
settings.load_profile("mesh")
