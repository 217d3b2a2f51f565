"""The contract of services/inference/provider.py and stackmesh/providers.py as tests, for every inference provider.

    InferenceProviderContract    whatever is behind the provider          contract.py, stopping.py
      TaughtContract             a fake that does as it is told           taught.py
        FailingContract          a fake that fails in every way           failing.py

A provider's module subclasses one of them, says its `kind` and overrides the fixture `subject`. What the provider
declines is in services/inference/capabilities.yaml; what one backend cannot show is in `exempt`; each with its reason.
"""
