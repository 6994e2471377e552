"""What is wrong with single files."""

from pathlib import Path

from datasets.doctor.facts import Facts
from datasets.doctor.faults import findings
from datasets.doctor.layout import Picture

ROOT = Path("part")


def fact(name="test/hole/0.png", mask="m.png", **values):
    split, defect_type, _ = name.split("/")
    picture = Picture(ROOT / name, split, defect_type, ROOT / mask if mask else None)
    return Facts(picture, **{"shape": (8, 9), "channels": "RGB", "depth": 8, "mask_shape": (8, 9)} | values)


TRAIN = fact("train/good/0.png", None)


def sentences(*facts):
    return [(each.kind, each.sentence, each.files) for each in findings([TRAIN, *facts], ROOT)]


def test_right_files_have_no_findings():
    assert sentences(fact(mask_share=0.1), fact("test/good/1.png", None), fact("test/good/2.png", mask_share=0.0)) == []


def test_every_unreadable_file_is_named():
    found = sentences(fact(error="a: damaged"), fact(error="b: empty"), fact(mask_error="m: damaged"))
    assert found == [
        ("unreadable", "2 pictures cannot be read", ["a: damaged", "b: empty"]),
        ("unreadable", "1 mask cannot be read", ["m: damaged"]),
    ]


def test_masks_that_do_not_fit_are_named():
    assert sentences(
        fact(mask="small.png", mask_share=0.1, mask_shape=(4, 4)),
        fact(mask="empty.png", mask_share=0.0),
        fact("test/good/0.png", "marked.png", mask_share=0.2),
        fact(mask="gone.png", mask_share=0.1, error="damaged", shape=(0, 0)),
    )[1:] == [
        ("masks", "1 mask of another size than the picture", ["small.png"]),
        ("masks", "1 mask without a marked pixel, of a defective picture", ["empty.png"]),
        ("masks", "1 mask with marked pixels, of a picture in test/good", ["marked.png"]),
    ]


def test_masks_that_are_probably_inverted_are_named():
    """In them black is the defect, so all pixel metrics were wrong without a word. A single defect may be large."""
    large, small = fact(mask="large.png", mask_share=0.9), fact(mask_share=0.1)
    assert sentences(large, large, small) == [
        ("masks", "2 masks with more than half of the picture marked", ["large.png"] * 2)
    ]
    assert sentences(large, small, small) == []


def test_test_pictures_of_a_kind_that_does_not_train_are_named():
    found = sentences(fact("test/hole/g.png", None, channels="gray"), fact("test/hole/c.png", None))
    assert found == [
        (
            "kinds",
            "1 test picture of a kind that train/good does not have (gray, 8 bits; train/good has RGB, 8 bits)",
            ["test/hole/g.png"],
        )
    ]
