"""What a device-hour costs in dollars: prices that the user gives, each with its date and its source."""

import datetime
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from qa_train.config_schema import CrossCheckError, mismatch
from qa_train.errors import ConfigError

FORM = "{usd_per_hour: dollars, date: YYYY-MM-DD, source: text}"


@dataclass(frozen=True)
class Price:
    """What one device costs in an hour.

    Attributes:
        usd_per_hour: Dollars for one GPU, or on a CPU for one core; above 0.
        date: When that was the price, ISO 8601.
        source: Who says so, such as a price list or a bill.
    """

    usd_per_hour: float
    date: str
    source: str

    def __post_init__(self) -> None:
        usd = self.usd_per_hour
        if not isinstance(usd, int | float) or isinstance(usd, bool) or not 0 < usd < math.inf:
            raise ValueError(mismatch("dollars above 0 as usd_per_hour", usd))
        if not _is_date(self.date):
            raise ValueError(mismatch("a day YYYY-MM-DD as date", self.date))
        if not (isinstance(self.source, str) and self.source.strip()):
            raise ValueError(mismatch("where the price is from as source", self.source))


@dataclass(frozen=True)
class Prices:
    """Prices by kind of device, named as records name it: a GPU's model, or `cpu-core`."""

    by_device: Mapping[str, Price] = field(default_factory=dict)

    def to_plain(self) -> dict[str, dict[str, object]]:
        """Returns the form that a configuration file and a manifest have; `parse_prices` reads it back."""
        return {device: asdict(price) for device, price in self.by_device.items()}


def parse_prices(plain: object) -> Prices:
    """Reads prices in the form that a configuration file has; `Prices` are returned as they are.

    Raises:
        CrossCheckError: Naming every device whose price is malformed.
        ValueError: If it is not a mapping at all.
    """
    if isinstance(plain, Prices):
        return plain
    if not isinstance(plain, Mapping):
        raise ValueError(mismatch(f"a mapping from kinds of device to {FORM}", plain))
    prices, problems = {}, {}
    for device, form in plain.items():
        try:
            prices[str(device)] = _parse_price(form)
        except ValueError as error:
            problems[str(device)] = str(error)
    if problems:
        raise CrossCheckError(problems)
    return Prices(prices)


def _parse_price(form: object) -> Price:
    if not (isinstance(form, Mapping) and form.keys() == Price.__dataclass_fields__.keys()):
        raise ValueError(mismatch(FORM, form))
    return Price(**form)


def _is_date(text: object) -> bool:
    try:
        return isinstance(text, str) and datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def usd(device_s: float, device: str, prices: Prices) -> float | None:
    """Returns what some time costs in dollars; None where the device has no price.

    Args:
        device_s: Seconds x devices held.
        device: Their kind, as records name it.
        prices: Looked up by that exact name.
    """
    price = prices.by_device.get(device)
    return None if price is None else device_s / 3600 * price.usd_per_hour


def check_max_usd(max_usd: float | None, device: str, prices: Prices) -> None:
    """Checks that a limit in dollars can be kept on this kind of device.

    Raises:
        ConfigError: If there is a limit, but no price.
    """
    if max_usd is None or device in prices.by_device:
        return
    known = ", ".join(prices.by_device) or "none"
    problem = f"stop.max_usd: expected a price of {device!r}, which the trials run on, found prices of {known}"
    raise ConfigError([f"{problem}; add it to prices, or set stop.max_device_hours instead"], "configuration")
