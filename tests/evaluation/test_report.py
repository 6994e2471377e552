import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.dataset import Sample
from evaluation.feature_pages import channel_importance, level_shares
from evaluation.pictures import colour_scale, heat, overlay, pixel_levels, standing
from evaluation.report import LABELS, _table, evaluate, summary
from utils.files import replace_folder, write_atomic, write_csv
from visualization import choose_images, choose_levels

RNG = np.random.default_rng(0)
SAMPLES = [Sample(Path(f"test/{kind}/{i}.png"), None, kind) for kind in ("good", "hole", "stain") for i in range(4)]
MASKS = np.zeros((12, 16, 16), bool)
MASKS[4:, 4:8, 4:8] = True
LEVELS = [0.2, 0.4, 0.6, 0.8, 1.0]
MAPS = RNG.random((12, 16, 16)).astype(np.float32) + MASKS


def test_evaluate_gives_every_figure_and_a_row_per_defect():
    result = evaluate(SAMPLES, MAPS, MASKS, [])
    assert set(result.figures) == set(LABELS) and set(result.per_defect) == {"hole", "stain"}
    assert result.figures["image_auroc"] == 1 and result.figures["pixel_auroc"] == 1
    assert result.scores.tolist() == MAPS.max(axis=(1, 2)).tolist() and result.notes == []


def test_evaluate_says_what_is_missing():
    assert "there are no masks in ground_truth" in evaluate(SAMPLES, MAPS, MASKS & False, []).notes[0]
    only_good = evaluate(SAMPLES[:4], MAPS[:4], MASKS[:4], ["first"])
    assert only_good.figures == {} and only_good.notes[0] == "first" and "defective" in only_good.notes[1]
    vanished = MASKS.copy()
    vanished[5] = False
    assert "1 defective images have no mask pixel" in evaluate(SAMPLES, MAPS, vanished, []).notes[0]


def test_a_defect_type_without_masks_has_empty_cells_in_the_table(tmp_path):
    masks = MASKS.copy()
    masks[4:8] = False  # no hole has a mask any more
    result = evaluate(SAMPLES, MAPS, masks, [])
    assert "aupro" not in result.per_defect["hole"] and "aupro" in result.per_defect["stain"]
    rows = _table(result.per_defect)
    assert "AUPRO" in rows[0] and len(rows) == 3 and rows[1].rstrip().endswith("1.0000")


def test_summary_is_what_metrics_json_says(tmp_path):
    result = evaluate(SAMPLES, MAPS, MASKS, ["a note"])
    config = {"obj": "screw", "distillType": "st", "backbone": "resnet18"}
    report = {"metrics": result.figures, "per_defect": result.per_defect, "notes": result.notes, "config": config}
    (tmp_path / "metrics.json").write_text(json.dumps(report | {"teacher": {"weights": {"resnet18": "random"}}}))
    text = summary(tmp_path)
    for words in ("screw", "image AUROC     1.0000", "hole", "stain", "a note", "random", str(tmp_path)):
        assert words in text


def test_colours_say_how_rare_a_value_is():
    normal = np.linspace(0, 1, 100_001).reshape(1, 1, -1)
    levels = pixel_levels(normal)
    assert levels == pytest.approx([0.9, 0.99, 0.999, 0.9999, 1.0])
    scale = colour_scale(normal, {"pixel_levels": levels})
    common, rare, top, beyond, far = heat(np.array([[0.5, 0.995, 1.0, 50.0, 1e4]]), scale)[0].sum(axis=1)
    assert common < 60 < rare < top < beyond < far


def test_without_held_out_images_the_strongest_map_is_the_brightest():
    """Nothing can lie above the maps that set the scale, so no colours are kept for it."""
    maps = np.linspace(0, 1, 100_001).reshape(1, 1, -1)
    common, top = heat(np.array([[0.5, 1.0]]), colour_scale(maps, None))[0].sum(axis=1)
    held_out = heat(np.array([[1.0]]), colour_scale(maps, {"pixel_levels": pixel_levels(maps)}))[0].sum(axis=1)
    assert common < 60 and top > held_out[0]


def test_one_odd_good_image_does_not_leave_all_maps_black():
    normal = np.full((100, 32, 32), 1e-4) + RNG.random((100, 32, 32)) * 1e-4
    normal[7, :3, :3] = 0.5
    scale = colour_scale(normal, {"pixel_levels": pixel_levels(normal)})
    assert heat(np.array([[0.002]]), scale).sum() > 200


def test_constant_maps_have_colours_too():
    zeros = np.zeros((3, 4, 4))
    for normal in (None, {"pixel_levels": pixel_levels(zeros)}):
        assert heat(np.zeros((2, 2)), colour_scale(zeros, normal)).shape == (2, 2, 3)


def test_standing_among_held_out_good_images():
    assert standing(0.5, {"scores": [0.1, 0.4, 0.9]}) == ", above 2 of 3 held-out good images"
    assert standing(0.5, None) == ""


@pytest.mark.parametrize("size", [(64, 64), (300, 200)])
def test_overlay_shows_image_outline_and_map(size):
    image, mask = np.full((*size, 3), 100, np.uint8), np.zeros(size, bool)
    mask[10:30, 10:30] = True
    picture = np.asarray(overlay(image, 100 * mask.astype(np.float32), mask, LEVELS))
    scale = max(1, -(-256 // size[1]))
    panels = [picture[: size[0] * scale, i * (size[1] * scale + 8) :][:, : size[1] * scale] for i in range(3)]
    assert (panels[0] == 100).all()
    assert (panels[1] != 100).any() and (panels[1][20 * scale, 20 * scale] == 100).all()
    assert (panels[2][20 * scale, 20 * scale] == heat(np.array([[100.0]]), LEVELS)[0, 0]).all()
    assert panels[2][-1, -1].sum() < 30


def test_write_atomic_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "figures.json"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomic(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_replace_folder_leaves_the_old_one_when_filling_fails(tmp_path):
    folder = tmp_path / "maps"
    replace_folder(folder, lambda new: (new / "a.png").write_text("old"))
    with pytest.raises(RuntimeError):
        replace_folder(folder, lambda new: (_ for _ in ()).throw(RuntimeError))
    assert [p.name for p in tmp_path.rglob("*")] == ["maps", "a.png"]
    replace_folder(folder, lambda new: (new / "b.png").write_text("new"))
    assert [p.name for p in folder.iterdir()] == ["b.png"]


def test_csv_floats_read_back_exactly(tmp_path):
    value = float(np.float32(0.1) / 3)
    write_csv(tmp_path / "x.csv", ["path", "score"], [("a, b", value)])
    assert (tmp_path / "x.csv").read_text() == f'path,score\n"a, b",{value!r}\n'


def test_channel_importance_counts_differences_where_the_map_is_high():
    teacher, student, final = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 16, 16)
    final[..., :4, :4] = 1
    student[0, 0, 0, 0] = 1  # inside
    student[0, 1, 0, 0] = 2
    student[0, 2, 3, 3] = 9  # outside
    assert channel_importance(teacher, student, final).tolist() == pytest.approx([0.2, 0.8, 0.0])


def test_channel_importance_where_a_map_without_padding_lies():
    """Cell (1, 1) of a map that lacks 2 on each side is cell (3, 3) of the image."""
    teacher, student, final = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 16, 16)
    final[..., 6:8, 6:8] = 1
    student[0, 0, 1, 1] = student[0, 1, 2, 2] = 1
    assert channel_importance(teacher, student, final, border=2).tolist() == [1, 0]


@pytest.mark.parametrize("combine", ["sum", "prod"])
def test_a_level_that_says_nothing_about_place_has_no_share(combine):
    def final_map(levels, size):
        return getattr(torch.stack(levels), combine)(dim=0)

    flat, peak = torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    peak[0, 0, 2, 3] = 5
    trainer = SimpleNamespace(final_map=final_map)
    assert level_shares(trainer, [flat, peak], (8, 8)) == [0, 1]
    assert level_shares(trainer, [peak, peak], (8, 8)) == pytest.approx([0.5, 0.5])
    assert level_shares(trainer, [flat, flat], (8, 8)) == [0, 0]


def test_a_level_that_the_map_vanishes_without_is_not_all_there_is():
    """MixedTeacher's published fusion is zero where the context map is constant; every pair of levels counts."""

    def final_map(levels, size):
        return (levels[0] + levels[1]) * (levels[2] - levels[2].min())

    levels = [torch.rand(1, 1, 8, 8) for _ in range(3)]
    for level in levels:
        level[0, 0, 2, 3] = 5
    shares = level_shares(SimpleNamespace(final_map=final_map), levels, (8, 8))
    assert sum(shares) == pytest.approx(1) and shares[0] > 0.05 and shares[1] > 0.05 and shares[2] > 0.5


def test_choosing_images_and_levels():
    scores = {str(s.path): float(i) for i, s in enumerate(SAMPLES)}
    assert choose_images(SAMPLES, "1", scores) == [3, 7, 11]  # the highest of each kind
    assert choose_images(SAMPLES, "2", scores)[:2] == [3, 2]
    assert choose_images(SAMPLES, "hole/1,good/0", scores) == [5, 0]
    assert choose_levels("all", 3) == [0, 1, 2] and choose_levels("1,3", 3) == [0, 2]


def test_pictures_of_a_run_can_be_opened(tmp_path):
    mask = MASKS[5]
    overlay(np.zeros((16, 16, 3), np.uint8), MAPS[5], mask, LEVELS).save(tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").size[0] > 3 * 256
