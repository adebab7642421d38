"""The benchmark: pyfw beside what one would use instead of it, in one run and in turns.

    python -m bench          (scripts/bench does it, with tests/ on the module path)

Modules: `results` (figures, targets, the table; pure), `network` (namespaces), `programs` (the C sources, processes),
`guards` (what stands in the gateway), `measures` (what is measured), `__main__` (the run).
"""
