"""Token buckets. Pure: the time is an argument, in seconds."""

from __future__ import annotations

from collections import OrderedDict


class TokenBucket:
    """A bucket that is filled at `per_s` tokens per second and holds at most `burst`."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s, self._burst = per_s, burst
        self._tokens, self._counted_s = burst, float("-inf")

    def admits(self, now_s: float) -> bool:
        """Take a token at `now_s`; return False if the bucket is empty."""
        self._tokens = min(self._burst, self._tokens + (now_s - self._counted_s) * self._per_s)
        self._counted_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class KeyedBuckets:
    """A bucket for each key, of at most `count` keys: beyond it the least recently used one is dropped."""

    def __init__(self, per_s: float, burst: float, count: int) -> None:
        self._per_s, self._burst, self._count = per_s, burst, count
        self._buckets: OrderedDict[bytes, TokenBucket] = OrderedDict()

    def admits(self, key: bytes, now_s: float) -> bool:
        """Take a token of this key at `now_s`; return False if its bucket is empty."""
        bucket = self._buckets.pop(key, None) or TokenBucket(self._per_s, self._burst)
        self._buckets[key] = bucket
        if len(self._buckets) > self._count:
            self._buckets.popitem(last=False)
        return bucket.admits(now_s)
