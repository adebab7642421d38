"""The benchmark is no part of the package: it lies beside the tests, and is found from there."""
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
