"""Check the price list; the first attempt fails, the second finds it."""

import json
import pathlib
import sys

PLACE = pathlib.Path("price-list.json")

if not PLACE.exists():
    PLACE.write_text(json.dumps({"apple": 99, "pear": 250}))
    print("price list: connection refused by prices.test:8080", file=sys.stderr)
    sys.exit(1)
prices = json.loads(PLACE.read_text())
print(f"price list: {len(prices)} articles, all with a price")
