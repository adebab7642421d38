"""python -m pyfw"""
import sys

from pyfw.cli.pyfw import main

sys.exit(main())
