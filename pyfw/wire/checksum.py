"""The Internet checksum (RFC 1071)."""


def internet_checksum(data: bytes | bytearray) -> int:
    """The ones' complement of the ones' complement sum of `data`'s 16-bit words; 0 over a header that holds its own."""
    total = int.from_bytes(data if len(data) % 2 == 0 else bytes(data) + b"\0", "big") % 0xFFFF
    if total == 0 and any(data):
        total = 0xFFFF
    return total ^ 0xFFFF
