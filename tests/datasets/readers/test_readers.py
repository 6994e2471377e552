"""All readers: each finds the same kind of samples, `auto` recognises each, and each trains, tests and predicts."""

import json

import pytest

from datasets import readers
from datasets.dataset import ImageDataset
from datasets.readers import READERS
from datasets.readers.layout import no_category
from engine.categories import categories
from engine.splits import other_good_images, short_digests, test_dataset, train_datasets
from tests.conftest import run_script, small
from tests.datasets.readers import trees
from tests.datasets.readers.trees import DATA, SQUARE, TREES, config_of
from trainer import build_trainer
from utils.config import result_settings
from utils.errors import UserError

test_dataset.__test__ = False  # a function of the engine, not a test


@pytest.fixture(scope="module", params=TREES, ids=lambda make: make.__name__)
def tree(request, tmp_path_factory):
    """The data set's folder, and what it is."""
    root = tmp_path_factory.mktemp(request.param.__name__)
    return root, request.param(root)


def test_each_reader_has_a_tree():
    assert {make.__name__ for make in TREES} == set(READERS.values())


def test_a_data_set_is_there_until_it_is_gone(tree):
    root, what = tree
    config = config_of(root, what.obj, reader=what.reader, **what.words)
    assert readers.is_there(config) and not readers.is_there(config.model_copy(update={"data_path": f"{root}/nowhere"}))
    several = config.model_copy(update={"obj": "all_of_them", "unified": ["nowhere", what.obj]})
    assert readers.is_there(several)


def test_the_splits_are_those_of_the_data_set(tree):
    root, what = tree
    config = config_of(root, what.obj, reader=what.reader, **what.words)
    train, test = readers.train_samples(config), readers.test_samples(config)
    assert len(train) == 4 and {(sample.defect_type, sample.mask) for sample in train} == {("good", None)}
    assert len(readers.validation_samples(config)) == what.validation
    assert not {sample.path for sample in train} & {sample.path for sample in test}
    assert len({sample.name for sample in test}) == len(test) == 4
    kinds = [sample.defect_type for sample in test]
    assert kinds.count("good") == 2 and set(kinds) == what.defect_types | {"good"}


def test_defective_images_of_a_training_split_are_left_out_and_said(tree, capsys):
    root, what = tree
    readers.train_samples(config_of(root, what.obj, reader=what.reader, **what.words))
    said = "left out 1 defective images, because only good ones are used to train" in capsys.readouterr().err
    assert said == (what.reader in ("kolektor", "kolektor2", "dagm"))


def test_masks_mark_the_defects_and_nothing_else(tree):
    root, what = tree
    dataset = ImageDataset(readers.test_samples(config_of(root, what.obj, **what.words)), DATA)
    batch = dataset.batch(range(4))
    marked = batch["mask"].sum(dim=(1, 2)).tolist()
    second = 16 if what.reader == "mvtec_loco" else 0  # another mask of the same image
    assert sorted(marked) == [0, 0, SQUARE, SQUARE + second]
    assert [count > 0 for count in marked] == [label == 1 for label in batch["label"].tolist()]


def test_auto_recognises_the_layout(tree):
    root, what = tree
    named = config_of(root, what.obj, reader=what.reader, **what.words)
    config = config_of(root, what.obj, **what.words)
    for read in (readers.train_samples, readers.test_samples, readers.validation_samples):
        assert read(config) == read(named)
    if what.reader != "folder":
        assert what.obj in readers.categories(root) == readers.categories(root, what.reader)
        assert categories(root, "all") == readers.categories(root)


def test_the_reader_does_not_decide_whether_a_training_may_be_resumed(tree):
    """It decides which images there are, and they do."""
    root, what = tree
    named, config = (config_of(root, what.obj, reader=name, **what.words) for name in (what.reader, "auto"))
    assert result_settings(named) == result_settings(config)


def test_other_good_images_are_not_those_of_training_or_validation(tree):
    root, what = tree
    config = config_of(root, what.obj, **what.words)
    datasets = train_datasets(config)[:2]
    for dataset in datasets:
        dataset.read_all(0)
    seen = {"seen": [digest for dataset in datasets for digest in short_digests(dataset)]}
    # In some layouts, the folder of training images is also that of defective test images.
    refused = "--images: .*(the student (may have|has) seen|the defective test image)"
    for dataset in filter(len, datasets):
        with pytest.raises(UserError, match=refused):
            other_good_images(config, dataset.samples[0].path.parent, seen)


def test_an_own_validation_set_takes_the_place_of_val_ratio(tree):
    root, what = tree
    train, val, _ = train_datasets(config_of(root, what.obj, **what.words))
    if what.validation:
        assert (len(train), len(val)) == (4, what.validation)
        assert {sample.path.parent.parent.name for sample in val.samples} == {"validation"}
    else:
        assert (len(train), len(val)) == (3, 1)


def test_an_unknown_category_is_an_error_that_names_those_that_there_are(tree):
    root, what = tree
    if what.reader == "folder":
        return  # any name will do
    for reader in (what.reader, "auto"):
        with pytest.raises(UserError, match=rf"obj: .* has no category 'prat' \(it has: .*{what.obj}"):
            readers.train_samples(config_of(root, "prat", reader=reader))


def test_a_wrong_reader_is_an_error_that_names_those_that_there_are(tmp_path):
    trees.mvtec(tmp_path)
    with pytest.raises(UserError, match="reader: there is no reader 'mvtek' .*auto, visa, .*mvtec_loco"):
        readers.train_samples(config_of(tmp_path, "part", reader="mvtek"))
    with pytest.raises(UserError, match="there is no reader 'mvtek'"):
        categories(tmp_path, "all", "mvtek")
    with pytest.raises(UserError, match=r"obj: the reader 'folder' .* name them, such as obj=\[a, b\]"):
        categories(tmp_path, "all", "folder")


@pytest.mark.parametrize("reader", READERS)
def test_a_missing_data_path_is_named(tmp_path, reader):
    with pytest.raises(UserError, match="data_path: there is no folder .*nowhere"):
        readers.train_samples(config_of(tmp_path / "nowhere", "part", reader=reader, folder={"good": ["ok"]}))


def test_categories_of_several_layouts_may_lie_side_by_side(tmp_path):
    for make in (trees.mvtec, trees.mvtec_loco, trees.mvtec_ad2, trees.btad, trees.dagm):
        make(tmp_path)
    assert categories(tmp_path, "all") == ["01", "Class1", "can", "part", "pushpins"]
    for obj, kinds in {"part": {"square"}, "01": {"ko"}, "can": {"bad"}, "Class1": {"defect"}}.items():
        samples = readers.test_samples(config_of(tmp_path, obj))
        assert {sample.defect_type for sample in samples} == kinds | {"good"}


def test_a_category_without_good_images_is_read_as_mvtec_ads_beside_other_layouts(tmp_path):
    """Its folders may only be misspelt, or it may be there for a test."""
    for make in (trees.btad, trees.mvtec):
        make(tmp_path)
    (tmp_path / "part/train").rename(tmp_path / "part/Train")
    with pytest.raises(UserError, match="part/Train: rename this folder to 'train'"):
        readers.train_samples(config_of(tmp_path, "part"))


def test_the_reader_of_mpdd_is_that_of_mvtec(tmp_path):
    what = trees.mvtec(tmp_path)
    one, other = (readers.test_samples(config_of(tmp_path, what.obj, reader=name)) for name in ("mvtec", "mpdd"))
    assert one == other


@pytest.mark.slow
def test_each_layout_trains_tests_and_predicts(tree, tmp_path):
    root, what = tree
    words = {"save_path": str(tmp_path), "calibration": 0.25, "false_reject_rate": 0.9}
    config = small("st", {"epochs": 1}, data_path=str(root), **(what.words | words | {"obj": what.obj}))
    trainer = build_trainer(config)
    trainer.train()
    metrics = trainer.test()
    assert {"image_auroc", "pixel_auroc", "aupro"} <= metrics.keys()
    assert ("spro" in metrics) == (what.reader == "mvtec_loco")
    samples = trainer.test_set[0].samples
    assert all((trainer.run_dir / "maps" / f"{sample.name}.png").is_file() for sample in samples)
    report = json.loads((trainer.run_dir / "metrics.json").read_text())
    assert set(report["per_defect"]) == what.defect_types
    if what.reader in ("mvtec_loco", "kolektor", "folder"):  # names and masks that are unlike MVTec AD's
        words = ["--config", trainer.run_dir / "config.yaml"]
        for process in (
            run_script("visualization.py", *words),
            run_script("predict.py", trainer.run_dir, samples[0].path, "--out", tmp_path / "out"),
        ):
            assert process.returncode == 0, process.stderr
        pages = [page.relative_to(trainer.run_dir / "features") for page in trainer.run_dir.glob("features/*/*.png")]
        assert {page.parent.name for page in pages} == what.defect_types | {"good"}
        shown = {page.with_suffix("").as_posix().partition("_level")[0] for page in pages}
        assert shown <= {sample.name for sample in samples}


def test_demo_categories_that_are_not_drawn_yet_are_known():
    assert str(no_category("demo_data", "wave", ["weave"])).endswith("(it has: washer, weave)")
    assert str(no_category("data", "wave", ["weave"])).endswith("(it has: weave)")
