"""python -m pyfw"""
import sys

from pyfw.cli.pyfw.main import main

sys.exit(main())
