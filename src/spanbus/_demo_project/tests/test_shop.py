import unittest

from shop.cart import Cart
from shop.discount import discounted


class CartTest(unittest.TestCase):
    def test_total_of_several(self):
        cart = Cart()
        cart.add(250, count=2)
        cart.add(99)
        self.assertEqual(cart.total(), 599)

    def test_nothing_costs_nothing(self):
        self.assertEqual(Cart().total(), 0)

    def test_a_negative_price_is_refused(self):
        with self.assertRaises(ValueError):
            Cart().add(-1)


class DiscountTest(unittest.TestCase):
    def test_a_tenth_off(self):
        self.assertEqual(discounted(1000, 10), 900)

    def test_rounding_is_in_favour_of_the_customer(self):
        self.assertEqual(discounted(995, 10), 895)


if __name__ == "__main__":
    unittest.main()
