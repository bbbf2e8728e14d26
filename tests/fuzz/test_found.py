"""What fuzzing has found, one test each."""

import pytest

from llem_core.errors import ConfigError
from llem_integrator.sources import parse_selector


@pytest.mark.parametrize("escape", ["\\Uef35f0e9", "\\U00110000", "\\UFFFFFFFF", "\\ud800"])
def test_an_escape_beyond_unicode_is_no_string(escape: str) -> None:
    """However far beyond: numbers that fit no C int raised OverflowError."""
    with pytest.raises(ConfigError, match="not a string of PromQL"):
        parse_selector(f"n='{escape}'")
