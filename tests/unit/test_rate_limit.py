"""How much one address may ask, by a clock of the test's own."""

import pytest

from dispatcher.sidecar.rate_limit import API_COST, LIMITS, MAX_ADDRESSES, RateLimiter, cost_of, network_of

BURST, RATE = LIMITS.burst, LIMITS.rate


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_goes_through_and_then_no_more_than_the_rate() -> None:
    clock = Clock()
    ours = RateLimiter(clock=clock)
    waits = [ours.wait_s("10.0.0.1", "other", 1.0) for _ in range(int(BURST) + 10)]
    assert waits[: int(BURST)] == [0.0] * int(BURST)
    assert waits[int(BURST) :] == pytest.approx([n / RATE for n in range(1, 11)])
    clock.now += 10 / RATE
    assert ours.wait_s("10.0.0.1", "other", 1.0) == pytest.approx(1 / RATE)
    clock.now += 3600
    assert {ours.wait_s("10.0.0.1", "other", 1.0) for _ in range(int(BURST) - 1)} == {0.0}


def test_who_would_wait_too_long_takes_nothing() -> None:
    ours = RateLimiter(clock=Clock())
    while (wait := ours.wait_s("10.0.0.1", "other", 20.0)) <= LIMITS.longest_s:
        pass
    assert {ours.wait_s("10.0.0.1", "other", 20.0) for _ in range(100)} == {wait}


def test_addresses_and_purposes_are_apart() -> None:
    ours = RateLimiter(clock=Clock())
    while not ours.wait_s("10.0.0.1", "other", 20.0):
        pass
    assert ours.wait_s("10.0.0.1", "probe", 1.0) == ours.wait_s("10.0.0.2", "other", 1.0) == 0.0
    while not ours.wait_s("2001:db8::1", "other", 20.0):
        pass
    assert ours.wait_s("2001:db8::2", "other", 20.0) > 0.0  # one host has them all
    assert ours.wait_s("2001:db8:0:1::1", "other", 20.0) == 0.0


def test_what_is_remembered_is_bounded_and_forgets_the_idle_first() -> None:
    clock = Clock()
    ours = RateLimiter(clock=clock)
    for number in range(MAX_ADDRESSES - 1):
        ours.wait_s(f"idle-{number}", "other", 1.0)
    clock.now += 60
    while not ours.wait_s("busy", "other", 20.0):
        pass
    for number in range(MAX_ADDRESSES // 2):
        ours.wait_s(f"new-{number}", "other", 1.0)
    assert ours.wait_s("busy", "other", 20.0) > 0.0
    for number in range(10 * MAX_ADDRESSES):
        ours.wait_s(f"more-{number}", "other", 1.0)
    assert len(ours._empty_at) <= MAX_ADDRESSES


def test_costs_and_networks() -> None:
    assert cost_of("/metrics") > cost_of("/api/dead-events") == API_COST > cost_of("/health") == cost_of("/x") == 1.0
    assert network_of("10.0.0.1") == network_of("::ffff:10.0.0.1") == "10.0.0.1"
    assert network_of("fe80::1%eth0") == "fe80::"
    assert network_of("") == ""
