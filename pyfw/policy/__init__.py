"""Tests of a policy: traffic that is written down, and what the rules are expected to say of it.  Run offline, on the engine."""
