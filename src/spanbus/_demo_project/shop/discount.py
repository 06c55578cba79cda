"""Discounts."""


def discounted(total: int, percent: int) -> int:
    """The total less ``percent``, in whole cents, rounded in favour of the customer."""
    return round(total * (100 - percent) / 100)
