"""Tell amounts of bytes in a few characters."""

from __future__ import annotations

GB = 1e9


def amount(num_bytes: float, mb_digits: int = 0) -> str:
    """Return a number of bytes in gigabytes, or in megabytes below one.

    >>> amount(2_500_000_000), amount(4_200_000), amount(4_200_000, mb_digits=1)
    ('2.5 GB', '4 MB', '4.2 MB')
    """
    return (
        f"{num_bytes / GB:,.1f} GB" if num_bytes >= GB else f"{num_bytes / 1e6:,.{mb_digits}f} MB"
    )
