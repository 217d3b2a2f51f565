"""For every test: Hypothesis asserts no times, as nothing here does."""

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("tests.contracts.inference_provider")

settings.register_profile("mesh", deadline=None)
settings.load_profile("mesh")
