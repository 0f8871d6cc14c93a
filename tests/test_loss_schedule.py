"""The losses' weights are the specification's, and a pure function of the step."""

import pytest

from ntlbg.training.loss_schedule import LOSSES, loss_weights


@pytest.mark.parametrize(
    ("step", "ntlbg", "align"), [(0, 2.0, 0.0), (25, 1.5, 0.25), (50, 1.0, 0.5), (100, 0.0, 1.0), (120, 0.0, 1.0)]
)
def test_the_specifications_schedule(step, ntlbg, align):
    weights = loss_weights("specification", step, 100)
    assert weights == dict.fromkeys(LOSSES, 1.0) | {"ntlbg": ntlbg, "align": align, "context": 0.5}


def test_the_constant_schedule_is_one_throughout():
    assert all(loss_weights("constant", step, 7) == dict.fromkeys(LOSSES, 1.0) for step in range(9))


def test_bad_values_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match="one of specification, constant, but it is 'cosine'"):
        loss_weights("cosine", 0, 1)
    with pytest.raises(ValueError, match="`max_steps` should be at least 1"):
        loss_weights("constant", 0, 0)
