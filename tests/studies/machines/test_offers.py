"""Nodes bought from the first offer that a cloud has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from ray.autoscaler.node_launch_exception import NodeLaunchException

from studies.machines.offers import PAUSE, SOLD_OUT, Offers

SPOT = {"MarketType": "spot"}
OFFERS: dict[str, Any] = {
    "offers": {
        "gpu": [
            {"InstanceType": "a", "InstanceMarketOptions": SPOT},
            {"InstanceType": "b", "InstanceMarketOptions": SPOT},
            {"InstanceType": "a"},
        ]
    }
}
BASE = {"InstanceType": "a", "ImageId": "image"}


class Refused(Exception):
    pass


class Shop:
    """A cloud with so many machines of each kind, and a clock that stands still."""

    def __init__(self, **stock: int) -> None:
        self.stock, self.asked, self.now = stock, list[str](), 0.0
        self.offers = Offers(OFFERS, clock=lambda: self.now)

    def create(self, config: dict[str, Any]) -> Mapping[str, Any]:
        assert config["ImageId"] == "image"
        kind = config["InstanceType"] + ("_spot" if "InstanceMarketOptions" in config else "")
        self.asked.append(kind)
        if not self.stock.get(kind, 0):
            raise Refused
        self.stock[kind] -= 1
        return {f"{kind}{self.stock[kind]}": config}

    def buy(self, count: int = 1) -> list[str]:
        return sorted(self.offers.buy("gpu", BASE, count, self.create, why_refused))


def why_refused(error: Exception) -> str | None:
    return "none left" if isinstance(error, Refused) else None


def test_the_first_offer_is_taken_while_there_is_one_and_then_the_next() -> None:
    shop = Shop(a_spot=2, b_spot=1, a=5)
    assert shop.buy(4) == ["a4", "a_spot0", "a_spot1", "b_spot0"]
    assert shop.asked == ["a_spot"] * 3 + ["b_spot"] + ["a_spot", "b_spot", "a"]
    # A machine that is there again is preferred again.
    shop.stock["a_spot"] = 1
    assert shop.buy() == ["a_spot0"]


def test_where_all_is_refused_each_refusal_is_named_and_the_cloud_left_alone_for_a_minute() -> None:
    shop = Shop()
    with pytest.raises(
        NodeLaunchException, match="gpu: a on spot: none left; b on spot: none left; a on demand: none left"
    ) as caught:
        shop.buy()
    assert caught.value.category == SOLD_OUT
    shop.stock["a_spot"] = 1
    shop.now = PAUSE - 1
    with pytest.raises(NodeLaunchException, match="just now"):
        shop.buy()
    assert len(shop.asked) == 3
    shop.now = PAUSE
    assert shop.buy() == ["a_spot0"]


def test_other_errors_are_not_taken_for_a_refusal() -> None:
    def create(config: dict[str, Any]) -> Mapping[str, Any]:
        raise PermissionError("no right to start nodes")

    with pytest.raises(PermissionError, match="no right"):
        Offers(OFFERS).buy("gpu", BASE, 1, create, why_refused)


def test_a_type_without_offers_is_created_as_it_stands() -> None:
    shop = Shop(a=1)
    assert sorted(shop.offers.buy("head", BASE, 1, shop.create, why_refused)) == ["a0"]


@pytest.mark.parametrize("offers", [None, [], {"gpu": {}}, {"gpu": []}, {"gpu": ["g5.12xlarge"]}])
def test_offers_that_are_no_table_of_lists_are_refused(offers: Any) -> None:
    with pytest.raises(ValueError, match=r"provider\.offers is .*InstanceType"):
        Offers({"offers": offers})
