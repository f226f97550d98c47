"""Sets how property tests draw their examples, and how tests are distributed over processes."""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# A change is to be judged by its own faults and not by luck or by how busy the machine is, so examples are
# always the same ones. `pytest --hypothesis-profile=new` looks for others.
settings.register_profile(
    "same", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.register_profile("new", settings.get_profile("same"), derandomize=False)
settings.load_profile("same")


# They repeat the same paths for hours of pretended time, and measuring coverage makes them twice as slow.
SIMULATIONS = (
    "tests/simulation/",
    "tests/unit/benchmarks/",
    "tests/unit/klaviyo/test_bisection.py::TestALastingFault",
    "tests/unit/klaviyo/test_packing.py::TestScale",
    "tests/unit/test_dispatch.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks simulations, and measures no coverage in them."""
    for item in items:
        if item.nodeid.startswith(SIMULATIONS):
            item.add_marker(pytest.mark.simulation)
            item.add_marker(pytest.mark.no_cover)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Chooses how tests are distributed when several processes run them."""
    from tests.support.scheduler import StackScheduling

    return StackScheduling(config, log)
