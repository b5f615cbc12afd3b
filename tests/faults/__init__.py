"""Faults on real processes: what is killed, cut, frozen or filled up, and what must still hold afterwards."""
