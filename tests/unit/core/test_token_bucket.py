"""The token bucket."""

from __future__ import annotations

from doorward.core.token_bucket import TokenBucket


def test_admits_a_burst_and_then_the_rate() -> None:
    bucket = TokenBucket(100, 1000)
    assert [bucket.admits(5.0) for _ in range(1001)] == [True] * 1000 + [False]
    assert sum(bucket.admits(6.0) for _ in range(200)) == 100
    assert sum(bucket.admits(1e6) for _ in range(2000)) == 1000
