"""How the tests of this room look at error messages."""

from collections.abc import Callable

import pytest

from resnet.errors import UserError


def error_line(call: Callable[[], object], *words: str) -> str:
    """Returns the message of the UserError that `call` raises. It must be one line that holds all `words`."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message
