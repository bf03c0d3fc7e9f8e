"""`refused`: how tests check that wrong input is refused, by the fields of the error and not by its wording."""

import contextlib
import pickle

import pytest

from danet_jax.errors import InputError

_ANY = object()


@contextlib.contextmanager
def refused(what: object = _ANY, value: object = _ANY, allowed: object = _ANY):
    """Expects an `InputError` of one printable line whose fields are those given; yields pytest's `ExceptionInfo`."""
    with pytest.raises(InputError) as caught:
        yield caught
    error = caught.value
    text = str(error)
    assert text.isprintable()
    assert 0 < len(text) <= 2100
    for name, expected in (("what", what), ("value", value), ("allowed", allowed)):
        if expected is not _ANY:
            found = getattr(error, name)
            assert str(found) == str(expected), f"{name} is {found!r}, not {expected!r}: {text}"
    if error.what is not None:
        assert str(error.what) in str(error.args[0]), f"the line does not name {error.what!r}: {text}"
    assert str(pickle.loads(pickle.dumps(error))) == text
