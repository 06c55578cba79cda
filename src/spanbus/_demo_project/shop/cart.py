"""A customer's shopping cart."""

from dataclasses import dataclass, field


@dataclass
class Cart:
    """Articles with their price in cents."""

    prices: list[int] = field(default_factory = list)

    def add(self, price: int, count: int = 1) -> None:
        if price < 0 or count < 1:
            raise ValueError(f"{count} x {price} cannot be bought")
        self.prices += [price] * count

    def total(self) -> int:
        return sum( self.prices )
