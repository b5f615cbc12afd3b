"""Held aggregates: those whose later events wait for the first of them. For the HTTP API, the command line and status.

An unsettled event that was tried before holds its aggregate, and so does one that a person parked; a dead one does with
DISPATCH_ORDER_ON_DEAD=hold. All of it is read from the table, whatever the owner of the slot has in memory.
"""
