"""For all tests: property tests are the same in every run, and no machine is too slow for them."""
from hypothesis import settings

settings.register_profile("pyfw", derandomize=True, deadline=None, database=None)
settings.load_profile("pyfw")
