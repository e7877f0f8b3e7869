from __future__ import annotations

import pytest

from tests.unit.deploy.kubernetes.manifests import BUNDLES, Manifests, load


@pytest.fixture(params=BUNDLES)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    """The base, and each overlay."""
    return load(request.param)
