"""How the compiled modules are built: every .pyx file under pyfw/ is one.

pyproject.toml gives one extension whose source is a pattern, and the compiler's options that
hold for all; what a single module needs besides (a library to link) stands in its
own first lines as `# distutils: libraries = ...`.  setuptools loads this file by its path, before
anything is built: it must import nothing of pyfw.
"""
from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools.command.build_ext import build_ext as _build_ext


class build_ext(_build_ext):    # the command's name, by setuptools' convention
    """setuptools' command, with the pattern expanded and all processors used."""

    def finalize_options(self) -> None:
        modules = self.distribution.ext_modules
        if modules and modules[0].name == "pyfw":       # once: this is called again
            modules[0].name = "*"                       # cythonize: after each file
            modules = cythonize(modules, quiet=True, nthreads=os.cpu_count())   # type: ignore[no-untyped-call]  # it has no types
            if "PYFW_DEBUG_LOCK" in os.environ:         # tests/kit/debug_lock.py
                for module in modules:
                    module.extra_compile_args = [*module.extra_compile_args, "-O0", "-g0", "-DPYFW_DEBUG_LOCK"]
            self.distribution.ext_modules = modules
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def get_source_files(self) -> list[str]:
        """For a source distribution: what is written, not what is generated from it."""
        return [str(path) for path in Path("pyfw").rglob("*.pyx")]
