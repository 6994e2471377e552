import pickle

from utils.errors import IncompleteWeights, UserError, reason


def test_an_error_that_comes_wrapped_in_a_traceback_is_its_sentence():
    """As torch's DataLoader passes it on from an image-reading process."""
    wrapped = "Caught UserError in DataLoader worker process 0.\n  ...\nutils.errors.UserError: a.png: bad\n"
    assert str(UserError(wrapped)) == "a.png: bad"


def test_an_error_survives_the_way_to_another_process():
    again = pickle.loads(pickle.dumps(IncompleteWeights("lacks layer4")))
    assert type(again) is IncompleteWeights and str(again) == "lacks layer4"


def test_the_reason_of_an_error_is_its_first_line_or_its_kind():
    assert reason(ValueError("odd\nand long")) == "odd"
    assert reason(ValueError()) == "ValueError"
