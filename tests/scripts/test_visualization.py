"""visualization.py: which images and levels it shows, and its messages about mistakes."""

from pathlib import Path

import pytest
import torch

import visualization
from datasets.dataset import Sample
from models.anomaly_map import repeat_inner
from trainer import build_trainer
from utils.errors import UserError
from utils.files import write_csv
from visualization import choose_images, choose_levels, read_scores

SAMPLES = [
    Sample(Path(f"data/test/{name}/{i}.png"), None, name) for name in ("good", "hole", "stain") for i in (7, 8, 9)
]
SCORES = [0.1, 0.3, 0.2, 5, 4, 6, 0.7, 0.8, 0.9]  # of these samples


def with_scores(run_dir, root="data", samples=SAMPLES):
    """A run whose test found SCORES in the data set at `root`."""
    rows = [
        (f"{root}/test/{sample.name}{sample.path.suffix}", 1, float(score))
        for sample, score in zip(samples, SCORES, strict=False)
    ]
    write_csv(run_dir / "scores.csv", ["path", "label", "score"], rows)
    return run_dir


# ---- which images and levels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("root", ["data", "./data", "../here/data", "/mnt/data", "/mnt/other-data/screw"])
def test_the_highest_scores_are_found_however_the_folder_of_the_data_was_spelled(root, tmp_path):
    with_scores(tmp_path, root)
    assert choose_images(SAMPLES, "1", tmp_path) == [1, 5, 8]
    assert choose_images(SAMPLES, "2", tmp_path) == [1, 2, 5, 3, 8, 7]
    assert choose_images(SAMPLES, "100", tmp_path) == [1, 2, 0, 5, 3, 4, 8, 7, 6]


def test_images_can_be_named_without_a_test(tmp_path):
    assert choose_images(SAMPLES, "hole/8,good/7", tmp_path) == [4, 0]


@pytest.mark.parametrize("wanted", ["²", "-1", "0", "", "1.5", "hole/404", "hole/8,", "good", "9" * 5000, "one"])
def test_images_that_there_are_not_are_a_sentence(wanted, tmp_path):
    with pytest.raises(UserError, match="^--images: "):
        choose_images(SAMPLES, wanted, with_scores(tmp_path))


def test_levels_are_counted_from_1():
    assert choose_levels("all", 3) == [0, 1, 2] and choose_levels("1,3", 3) == [0, 2] and choose_levels("2", 2) == [1]


@pytest.mark.parametrize("wanted", ["²", "0", "4", "-1", "", "1,", "one", "9" * 5000])
def test_levels_that_there_are_not_are_a_sentence(wanted):
    with pytest.raises(UserError, match="^--layers: give 'all' or numbers from 1 to 3"):
        choose_levels(wanted, 3)


def test_a_level_shows_only_positions_that_count(config):
    trainer = build_trainer(config("st", {"border": 1}))
    for level in visualization.look(trainer, trainer.test_set[0], 0).levels:
        assert torch.equal(level.distance, repeat_inner(level.distance[None, None], 1)[0, 0])


# ---- scores.csv ----------------------------------------------------------------------------------------------


def test_scores_are_known_by_the_names_of_images(tmp_path):
    assert read_scores(with_scores(tmp_path, "/somewhere/else"), SAMPLES[3:5]) == SCORES[3:5]


def test_images_of_the_same_name_in_other_folders_have_their_own_scores(tmp_path):
    samples = [Sample(Path(f"{day}/cam/bad/1.png"), None, "bad") for day in ("monday", "tuesday")]
    rows = [(str(sample.path), 1, score) for sample, score in zip(samples, (9.0, 0.1), strict=True)]
    write_csv(tmp_path / "scores.csv", ["path", "label", "score"], rows)
    assert read_scores(tmp_path, samples) == [9.0, 0.1]
    moved = [sample._replace(path=Path("elsewhere", sample.path)) for sample in samples]
    with pytest.raises(UserError, match="no score of the test image bad/1; test the run again"):
        read_scores(tmp_path, moved)


def test_scores_of_names_in_all_scripts_and_of_bytes_that_are_no_text(tmp_path):
    samples = [Sample(Path(f"data/test/缺陷/{stem}.png"), None, "缺陷") for stem in ("零件", "a, b", "raw \udcff")]
    assert choose_images(samples, "1", with_scores(tmp_path, samples=samples)) == [1]


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = with_scores(tmp_path) / "scores.csv"
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert choose_images(SAMPLES, "1", tmp_path) == [1, 5, 8]


HEAD = "path,label,score\n"
DAMAGED = {
    "saved with semicolons": "path;label;score\ndata/test/good/7.png;0;0,1\n",
    "another encoding": HEAD.encode("utf-16"),
    "a column lost": "path,label\ndata/test/good/7.png,0\n",
    "cut off": HEAD + "data/test/good/7.png,0",
    "no number": HEAD + "data/test/good/7.png,0,high\n",
    "a decimal comma": HEAD + 'data/test/good/7.png,0,"0,1"\n',
    "binary": HEAD.encode() + b"\x00\xff\x00",
    "an endless field": HEAD + '"' + "x" * 200_000,
}
INCOMPLETE = {
    "empty": "",
    "header only": HEAD,
    "header lost": "data/test/good/7.png,0,0.1\n",
    "an image lacks": HEAD + "".join(f"data/test/{s.name}.png,0,0.5\n" for s in SAMPLES[1:]),
    "not a number": HEAD + "".join(f"data/test/{s.name}.png,0,nan\n" for s in SAMPLES),
}


@pytest.mark.parametrize("what", [*DAMAGED, *INCOMPLETE])
def test_a_file_of_scores_that_cannot_be_used_is_a_sentence(what, tmp_path):
    content = (DAMAGED | INCOMPLETE)[what]
    (tmp_path / "scores.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        choose_images(SAMPLES, "1", tmp_path)
    said = str(error.value)
    assert str(tmp_path / "scores.csv") in said and "test the run again (python3 trainNet.py phase=test)" in said
    assert ("damaged, or saved by another program" if what in DAMAGED else "no score of the test image good/7") in said


def test_a_run_that_was_not_tested_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="scores.csv: test the run first"):
        choose_images(SAMPLES, "1", tmp_path)


# ---- the script ----------------------------------------------------------------------------------------------


RANKED = [("good/000", 0, 0.1), ("square/000", 1, 0.2), ("square/001", 1, 0.3)]


def pages(workplace):
    features = workplace.run / "features"
    return sorted(path.relative_to(features).as_posix() for path in features.rglob("*.png"))


@pytest.mark.parametrize("spelled", ["{here}/data", "./data", "../{name}/data"])
def test_pages_show_the_highest_score_of_each_type_however_data_path_is_spelled(spelled, workplace, call):
    path = workplace.run / "scores.csv"  # which of two images has the higher score is random
    rows = [f"data/test/{name}.png,{label},{score}" for name, label, score in RANKED]
    path.write_text("\n".join(["path,label,score", *rows]))
    data_path = spelled.format(here=workplace.path, name=workplace.path.name)
    said = call(visualization, f"data_path={data_path}", "--layers", "2", "--channels", "2")
    assert said.code == 0, said.err
    assert pages(workplace) == ["good/000.png", "good/000_level2.png", "square/001.png", "square/001_level2.png"]
    assert said.out.strip().endswith(f"2 images: pages in {workplace.run.relative_to(workplace.path) / 'features'}")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--images=²"], "--images"),
        (["--layers=²"], "--layers"),
        (["--layers=1,3"], "--layers"),
        (["--channels=x"], "--channels"),
        (["--channels=17"], "--channels"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_page(flags, named, workplace, call):
    before = workplace.kept()
    said = call(visualization, *flags)
    assert said.code == 2 and said.last.startswith("error: ") and named in said.last
    assert workplace.kept() == before


@pytest.mark.slow
def test_a_run_in_which_somebody_works_is_left_alone(workplace, call):
    before = workplace.kept()
    with build_trainer("config.yaml").folder.locked():
        said = call(visualization)
    assert said.code == 2 and "working there" in said.last and workplace.kept() == before
    assert call(visualization, "--images", "good/000", "--layers", "1").code == 0
    assert pages(workplace) == ["good/000.png", "good/000_level1.png"]


def test_a_folder_that_cannot_be_written_is_named(workplace, call):
    (workplace.run / "features").mkdir()
    (workplace.run / "features/square").write_text("a file in the place of the folder")
    said = call(visualization, "--images", "square/000")
    assert said.code == 2 and "features/square" in said.last
