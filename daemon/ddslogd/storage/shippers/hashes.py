"""SipHash as rsyslog uses it for the names of its state files."""

from __future__ import annotations

from typing import Final

# --- checksums --------------------------------------------------------------------------------------------------------

_MASK: Final = 2**64 - 1


def siphash(block: bytes) -> str:
    """SipHash-2-4 of whole words under the key 00 01 … 0f, in hex as imfile writes it. Aumasson, Bernstein, 2012."""
    key = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
    v = [word ^ key[i % 2] for i, word in enumerate(_SIPHASH_BEGIN)]
    words = [int.from_bytes(block[at : at + 8], "little") for at in range(0, len(block), 8)]
    for word in (*words, len(block) % 256 << 56):
        v[3] ^= word
        _sip_rounds(v, 2)
        v[0] ^= word
    v[2] ^= 0xFF
    _sip_rounds(v, 4)
    return (v[0] ^ v[1] ^ v[2] ^ v[3]).to_bytes(8, "little").hex()


_SIPHASH_BEGIN: Final = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)


def _sip_rounds(v: list[int], count: int) -> None:
    for _ in range(count):
        for a, b, turn in ((0, 1, 13), (2, 3, 16)):
            v[a] = v[a] + v[b] & _MASK
            v[b] = _turned(v[b], turn) ^ v[a]
        v[0] = _turned(v[0], 32)
        for a, b, turn in ((2, 1, 17), (0, 3, 21)):
            v[a] = v[a] + v[b] & _MASK
            v[b] = _turned(v[b], turn) ^ v[a]
        v[2] = _turned(v[2], 32)


def _turned(word: int, bits: int) -> int:
    return (word << bits | word >> 64 - bits) & _MASK
