"""Sets how every property test draws its examples."""

from hypothesis import HealthCheck, settings

# A change is to be judged by its own faults and not by luck or by how busy the machine is, so examples are
# always the same ones. `pytest --hypothesis-profile=new` looks for others.
settings.register_profile(
    "same", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.register_profile("new", settings.get_profile("same"), derandomize=False)
settings.load_profile("same")
