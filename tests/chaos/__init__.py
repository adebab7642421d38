"""Chaos: a gateway to which everything happens in random order, and a probe from outside that checks what must hold all the time.

    probe.py    forbidden packets without end, connections that are held, new ones; what must not be is noted with its time
    scene.py    the lab, the firewall, its load, and the order of what happens, which a seed decides
    actions.py  what may happen, each with what it may cost
"""
