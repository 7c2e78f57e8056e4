import pytest

from qa_train.config_schema import CrossCheckError
from qa_train.errors import ConfigError
from sweeps.pricing import Price, Prices, check_max_usd, parse_prices, usd

CORE = {"usd_per_hour": 0.05, "date": "2026-11-01", "source": "the bill of October"}
GPU = {"usd_per_hour": 3, "date": "2026-10-31", "source": "a price list"}
PRICES = Prices({"cpu-core": Price(0.05, "2026-11-01", "the bill of October"), "GPU X": Price(3, "2026-10-31", "list")})


def test_prices_are_read_and_written_back() -> None:
    plain = {"cpu-core": CORE, "NVIDIA H100 80GB HBM3": GPU}
    prices = parse_prices(plain)
    assert prices.by_device["cpu-core"] == Price(0.05, "2026-11-01", "the bill of October")
    assert prices.to_plain() == plain
    assert parse_prices(prices.to_plain()) == prices
    assert parse_prices(prices) is prices
    assert parse_prices({}) == Prices()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"usd_per_hour": 0}, "expected dollars above 0 as usd_per_hour, found 0"),
        ({"usd_per_hour": -1.5}, "expected dollars above 0 as usd_per_hour, found -1.5"),
        ({"usd_per_hour": float("inf")}, "expected dollars above 0"),
        ({"usd_per_hour": float("nan")}, "expected dollars above 0"),
        ({"usd_per_hour": True}, "expected dollars above 0"),
        ({"usd_per_hour": "3"}, "expected dollars above 0 as usd_per_hour, found the text '3'"),
        ({"usd_per_hour": None}, "expected dollars above 0"),
        ({"date": "2026-13-01"}, "expected a day YYYY-MM-DD as date, found the text '2026-13-01'"),
        ({"date": "20261101"}, "expected a day YYYY-MM-DD"),
        ({"date": "November"}, "expected a day YYYY-MM-DD"),
        ({"date": 2026}, "expected a day YYYY-MM-DD as date, found 2026"),
        ({"source": " "}, "expected where the price is from as source"),
        ({"source": 3}, "expected where the price is from as source, found 3"),
        ({"usd": 3}, "expected {usd_per_hour: dollars, date: YYYY-MM-DD, source: text}, found the mapping"),
    ],
)
def test_a_price_needs_an_amount_a_day_and_a_source(change: dict[str, object], expected: str) -> None:
    with pytest.raises(CrossCheckError) as caught:
        parse_prices({"GPU X": GPU, "cpu-core": CORE | change})
    assert [*caught.value.problems] == ["cpu-core"]
    assert caught.value.problems["cpu-core"].startswith(expected)


def test_all_malformed_prices_are_named_at_once() -> None:
    incomplete = {key: value for key, value in CORE.items() if key != "source"}
    with pytest.raises(CrossCheckError) as caught:
        parse_prices({"a": 3, "b": GPU, "c": incomplete, "d": None})
    assert [*caught.value.problems] == ["a", "c", "d"]


@pytest.mark.parametrize("plain", [3, None, [CORE], "cpu-core"])
def test_prices_that_are_no_mapping_are_refused(plain: object) -> None:
    with pytest.raises(ValueError, match="expected a mapping from kinds of device"):
        parse_prices(plain)


def test_dollars_are_device_hours_times_the_price() -> None:
    assert usd(3600, "GPU X", PRICES) == 3
    assert usd(2 * 3600, "cpu-core", PRICES) == pytest.approx(0.1)
    assert usd(0, "GPU X", PRICES) == 0


@pytest.mark.parametrize("device", ["GPU Y", "gpu x", "GPU", ""])
def test_a_device_without_a_price_leaves_dollars_empty(device: str) -> None:
    assert usd(3600, device, PRICES) is None
    assert usd(3600, device, Prices()) is None


def test_a_limit_in_dollars_needs_the_price_of_the_very_device() -> None:
    check_max_usd(5, "GPU X", PRICES)
    check_max_usd(None, "GPU Y", Prices())
    with pytest.raises(ConfigError, match=r"stop\.max_usd: .* 'GPU Y'.* found prices of cpu-core, GPU X; add it"):
        check_max_usd(5, "GPU Y", PRICES)
    with pytest.raises(ConfigError, match="found prices of none"):
        check_max_usd(5, "GPU Y", Prices())
