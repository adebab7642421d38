"""Fuzzing: libFuzzer at the generated C, under sanitizers of addresses and undefined behaviour, and at the parsers in Python.

    build.py    compiles every module once more, into build/fuzz, and the driver
    driver.c    libFuzzer's entry point: embeds Python, hands each input to a target, reports Python's lines as coverage
    native.pyx  the targets that judge packets, read messages, adopt tables: no Python per packet
    parsers.py  the targets that are Python
    packets.py  packets and rules that the targets begin with; seeds.py: what else they begin with
    run.py      runs the driver, and reads what it reports
    corpus/     for each target: inputs that reach what others do not, and those that once found something, named for it
"""
