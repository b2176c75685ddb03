"""The token bucket."""

from __future__ import annotations

from doorward.core.token_bucket import KeyedBuckets, TokenBucket


def test_admits_a_burst_and_then_the_rate() -> None:
    bucket = TokenBucket(100, 1000)
    assert [bucket.admits(5.0) for _ in range(1001)] == [True] * 1000 + [False]
    assert sum(bucket.admits(6.0) for _ in range(200)) == 100
    assert sum(bucket.admits(1e6) for _ in range(2000)) == 1000


def test_each_key_has_a_bucket_and_keys_are_bounded() -> None:
    buckets = KeyedBuckets(1, 2, count=2)
    assert [buckets.admits(key, 5.0) for key in (b"a", b"a", b"a", b"b", b"a")] == [True, True, False, True, False]
    assert buckets.admits(b"a", 6.0)
    assert [buckets.admits(key, 6.0) for key in (b"c", b"a", b"b", b"b")] == [True, False, True, True]
