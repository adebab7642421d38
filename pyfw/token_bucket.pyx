# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A token bucket for Python: see token_bucket.pxd."""


def take_tokens(cost_ns: int, full_ns: int, credit_ns: int, times_ns: list[int]) -> list[tuple[bool, int]]:
    """Whether each packet got a token, and the credit that it left."""
    cdef TokenRate rate = TokenRate(cost_ns, full_ns)
    cdef TokenBucket bucket = TokenBucket(credit_ns, 0)
    return [(take_token(&bucket, &rate, now_ns), bucket.credit_ns) for now_ns in times_ns]
