"""Every method in TRAINERS, also a new one, passes the same steps: train, save, reload, same scores."""

import copy
import json

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from engine.loading import training_batches
from engine.student_file import fingerprint
from evaluation.score import TRAINING
from tests.conftest import (
    all_scored,
    draw_defect,
    draw_good,
    killed_at_the_first_checkpoint,
    small,
    write_image,
    write_mvtec,
)
from trainer import TRAINERS, build_trainer
from utils.errors import UserError

METRICS = {"image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro"}
every_method = pytest.mark.parametrize("method", TRAINERS)
QUICK = ("st", "rnst", "mixed")  # the default suite has a time limit; the other methods are in the slow part


def apart(slow):
    """Every method, those in `slow` as slow tests."""
    methods = [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in TRAINERS]
    return pytest.mark.parametrize("method", methods)


every_method_the_slowest_apart = apart(["ead"])
every_method_only_the_quick_by_default = apart(set(TRAINERS) - set(QUICK))


@pytest.fixture(scope="module")
def finished(tiny_mvtec, tmp_path_factory):
    """finished(method) -> (trainer after train and test, its metrics), once per method; in half precision.

    EfficientAD's only if the CPU has instructions for it: without them, it takes as long as all other tests together.
    """
    runs = {}

    def get(method):
        if method not in runs:
            save_path = str(tmp_path_factory.mktemp("results"))
            precision = "auto" if method == "ead" else "bf16"
            raw = small(method, data_path=str(tiny_mvtec), save_path=save_path, precision=precision)
            trainer = build_trainer(raw)
            trainer.train()
            runs[method] = (trainer, trainer.test())
        return runs[method]

    return get


def files(trainer):
    """The files of its run, except the log, which also contains failed attempts."""
    return {path for path in trainer.run_dir.iterdir() if path.name != "train.log"}


@every_method
def test_attributes_metrics_features_and_maps_of_a_trainer(finished, method):
    trainer, metrics = finished(method)
    assert all(isinstance(net, nn.Module) for net in (trainer.detector, trainer.teacher, trainer.student))
    assert trainer.run_dir.parts[-2:] == (method, "part")
    assert set(metrics) == METRICS and all(0 <= value <= 1 for value in metrics.values())
    size = trainer.options.crop_size
    image = torch.rand(2, 3, *size)
    teacher_maps, student_maps = trainer.features(image)
    assert [m.shape for m in teacher_maps] == [m.shape for m in student_maps]
    final = trainer.anomaly_map(image)
    assert final.shape == (2, 1, *size) and final.dtype == torch.float32 and torch.isfinite(final).all()
    one_by_one = torch.cat([trainer.anomaly_map(image[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(final, one_by_one, rtol=0.1, atol=0.05 * float(final.max()))


@every_method
def test_the_border_of_the_levels_can_count_as_its_inner_neighbours(finished, device, method):
    trainer, _ = finished(method)
    if method == "ead":
        assert not hasattr(trainer.options, "border")  # its networks do not pad
        return
    detector = copy.deepcopy(trainer.detector).eval().float()
    image = torch.rand(1, 3, *trainer.options.crop_size, device=device)
    with torch.inference_mode():
        levels = detector.levels(*detector.pairs(image))
        for level in levels:  # as if padding had disturbed the features
            level[..., 0, :] += 100
        plain = detector.final_map(levels, image.shape[-2:])
        detector.border = 1
        repaired = detector.final_map(levels, image.shape[-2:])
    assert detector.border == 1 and trainer.detector.border == 0
    assert repaired.max() < plain.max() / 2


@every_method
def test_files_of_a_finished_run(finished, method):
    trainer, metrics = finished(method)
    assert {path.name for path in files(trainer)} == {
        "config.yaml",
        "student.safetensors",
        "metrics.json",
        "scores.csv",
        "pixels.npz",
        "maps",
        "training.csv",
        "training.png",
        "report.html",
        "scores.png",
        "curves.png",
        "contact.png",
    }
    report = json.loads((trainer.run_dir / "metrics.json").read_text())
    assert report["metrics"] == metrics and set(report["per_defect"]) == {"square"}
    backbones = trainer.config.backbone if method == "mixed" else [trainer.config.backbone]
    assert [(each["backbone"], each["weights"]) for each in report["teachers"]] == [(b, "random") for b in backbones]
    assert report["teacher_sha256"] == fingerprint(trainer.teacher) and len(report["good_scores"]["scores"]) > 0
    assert report["seed"] == 0
    assert {"python", "torch", "timm"} <= set(report["versions"]) and "cores" in report["hardware"]
    assert report["durations"]["train_seconds"] > 0 and report["durations"]["test_seconds"] > 0
    assert len(list((trainer.run_dir / "maps").rglob("*.png"))) == 6
    rows = (trainer.run_dir / "training.csv").read_text().splitlines()
    epochs = trainer.options.steps if method == "ead" else trainer.options.epochs  # of a step each
    assert len(rows) == 1 + epochs and rows[0].startswith("epoch,")
    scores = (trainer.run_dir / "scores.csv").read_text().splitlines()
    assert scores[0] == "path,label,score,defect_type" and len(scores) == 7


def pictures(trainer):
    """Two images as a detector takes them: [2,3,H,W] uint8."""
    random = torch.Generator().manual_seed(0)
    size = (2, 3, *trainer.options.crop_size)
    return torch.randint(256, size, generator=random, dtype=torch.uint8).to(trainer.device)


@every_method_the_slowest_apart
def test_a_detector_that_is_exported_or_copied_gives_the_same_maps(finished, method):
    detector = finished(method)[0].detector.eval()
    images = pictures(finished(method)[0])
    with torch.inference_mode():
        maps = detector(images)
        assert maps.shape == (2, 1, *images.shape[-2:]) and maps.dtype == torch.float32 and maps.std() > 0
        assert torch.equal(copy.deepcopy(detector)(images), maps)
    with torch.no_grad():
        exported = torch.export.export(detector, (images,), strict=False).module()(images)
    torch.testing.assert_close(exported, maps, rtol=1e-5, atol=1e-6 * float(maps.abs().max()))


@every_method
def test_a_detector_keeps_nothing_between_calls(finished, method):
    trainer, _ = finished(method)
    detector = trainer.detector.eval()
    before, values = attributes(detector), {key: value.clone() for key, value in detector.state_dict().items()}
    with torch.inference_mode():
        detector(pictures(trainer)[:1])
    after = attributes(detector)
    assert after.keys() == before.keys() and all(after[key] is before[key] for key in before)
    assert all(torch.equal(value, values[key]) for key, value in detector.state_dict().items())


def attributes(net):
    """The attributes of a network and all its parts, and the items of their lists and dicts."""
    found = {}
    for name, module in net.named_modules():
        for key, value in vars(module).items():
            found[name, key] = value
            if isinstance(value, dict | list):
                entries = value.items() if isinstance(value, dict) else enumerate(value)
                found |= {(name, key, place): entry for place, entry in entries}
    return found


@every_method
def test_pictures_of_8_and_16_bits_and_in_floats_give_the_same_map(finished, device, method):
    trainer, _ = finished(method)
    detector, eight = trainer.detector.eval(), pictures(trainer)[:1]
    sixteen = (eight.int() * 257).to(torch.uint16)
    with torch.inference_mode():
        maps = detector(eight)
        pairs = [(detector(sixteen), maps), (detector(eight.float() / 255), maps)]
    pairs.append((trainer.anomaly_map(sixteen), trainer.anomaly_map(eight)))
    for found, expected in pairs:
        # A GPU divides by 255 and by 65535 with other roundings, and tf32 makes them larger.
        tolerance = 0.01 * expected.max() if device.type == "cuda" else 0
        assert (found - expected).abs().max() <= tolerance


@every_method
def test_a_second_test_gives_the_same_metrics(finished, method):
    trainer, metrics = finished(method)
    assert trainer.test() == metrics


@every_method_the_slowest_apart
def test_a_reloaded_run_scores_exactly_the_same(finished, method):
    first, metrics = finished(method)
    again = build_trainer(first.run_dir / "config.yaml", ["phase=test"])
    again.load()
    assert again.test() == metrics


@every_method
def test_the_written_config_is_the_run(finished, method):
    trainer, _ = finished(method)
    written = yaml.safe_load((trainer.run_dir / "config.yaml").read_text())
    assert build_trainer(written).config == trainer.config
    assert set(written["TrainingData"]) == set(trainer.Options.model_fields)


@every_method
def test_a_saved_student_is_loaded_bit_for_bit(config, method):
    a = build_trainer(config(method))
    a.run_dir.mkdir(parents=True)
    a.save()
    b = build_trainer(config(method))
    with torch.no_grad():
        for parameter in b.student.parameters():
            parameter.zero_()
    b.load()
    for key, value in a.student.state_dict().items():
        assert torch.equal(value, b.student.state_dict()[key])


@every_method_only_the_quick_by_default
def test_a_planted_defect_is_found_once_the_normals_are_fitted(tmp_path, method):
    """Train on few, nearly equal good pictures; the map of a defective one must peak inside its mask."""
    write_mvtec(tmp_path, train=8, good=0, bad=0)
    image, mask = draw_defect(np.random.default_rng(11))
    write_image(tmp_path / "part/test/square/000.png", image)
    write_image(tmp_path / "part/test/good/000.png", draw_good(np.random.default_rng(12)))
    write_image(tmp_path / "part/ground_truth/square/000_mask.png", mask)
    training = {"val_ratio": 0.25} | ({"steps": 4} if method == "ead" else {"epochs": 12})
    top = {"weights": "bundled", "precision": "fp32", "save_path": str(tmp_path / "r")}
    trainer = build_trainer(small(method, training, data_path=str(tmp_path), **top))
    trainer.train()
    metrics = trainer.test()
    assert metrics["image_auroc"] == 1 and metrics["pixel_auroc"] > 0.9
    good, defective = sorted(all_scored(trainer), key=lambda result: result.mask.any())
    assert defective.mask.flatten()[defective.anomaly_map.argmax()]
    assert defective.anomaly_map.max() > 1.3 * good.anomaly_map.max()


@every_method
def test_what_follows_the_networks_is_the_same_from_every_side(config, method):
    """Distance, combination and blur of transposed maps give the transposed map; the earlier toolkit blurred rows."""
    top = {"fusion": "product"} if method == "mixed" else {}  # the published fusion depends on columns, as tested
    trainer = build_trainer(config(method, top | {"sigma": 2.0}, precision="fp32"))
    height, width = (256, 320) if method == "ead" else (96, 128)
    detector = trainer.detector
    teacher, student = trainer.features(torch.rand(2, 3, height, width))
    final = detector.final_map(detector.levels(teacher, student), (height, width))
    turned = detector.levels([maps.mT for maps in teacher], [maps.mT for maps in student])
    torch.testing.assert_close(detector.final_map(turned, (width, height)).mT, final, rtol=1e-4, atol=1e-6)


@every_method_only_the_quick_by_default
def test_an_interrupted_run_ends_like_an_uninterrupted_one(config, tmp_path, monkeypatch, method):
    """Weights, optimizer, schedule, waiting gradients, exemplars and noise all continue where they were."""
    training = {"epochs": 2, "batch_size": 3}  # 8 images are 3 batches: with two per step one is left over
    runs = [config(method, training, save_path=str(tmp_path / name)) for name in ("straight", "broken")]
    straight = build_trainer(runs[0])
    straight.train()
    with killed_at_the_first_checkpoint(monkeypatch):
        build_trainer(runs[1]).train()
    resumed = build_trainer(runs[1])
    resumed.train()
    assert resumed.metadata["best_epoch"] == straight.metadata["best_epoch"]
    for key, value in straight.student.state_dict().items():
        assert torch.equal(value, resumed.student.state_dict()[key]), key


@every_method_only_the_quick_by_default
def test_the_teacher_stays_as_it_is_and_the_student_trains_in_train_mode(config, method, monkeypatch):
    """The earlier toolkit trained its students in eval mode from the second epoch."""
    trainer = build_trainer(config(method))
    before, loss, modes = fingerprint(trainer.teacher), trainer.loss, []

    def spy(batch):
        if "step" in batch:  # in training, not in a validation by the loss
            modes.append({net.training for net in trainer.student.modules()})
        assert not any(net.training for net in trainer.teacher.modules())
        return loss(batch)

    monkeypatch.setattr(trainer, "loss", spy)
    trainer.train()
    assert len(modes) >= 2 and all(mode == {True} for mode in modes)
    assert fingerprint(trainer.teacher) == before
    assert not any(p.requires_grad for p in trainer.teacher.parameters())
    assert not any(m.training for m in trainer.teacher.modules())


# RD++ draws its noise per process, and EfficientAD's batches are single images.
@pytest.mark.parametrize("method", [method for method in TRAINERS if method not in ("rdpp", "ead")])
def test_halves_of_a_batch_average_to_the_whole(config, method):
    """So every image has the same weight with several processes and with a short last batch."""
    trainer = build_trainer(config(method, precision="fp32"))
    train, _, _ = training_batches(trainer.config, trainer.teacher, trainer.compute)
    trainer.on_fit_start(train)
    trainer.student.eval()  # batch norm depends on the batch
    image = trainer.compute.images(torch.rand(4, 3, 96, 96))
    teacher = trainer.teacher(image)

    def loss(part):
        return trainer.loss({"image": image[part], "teacher": [maps[part] for maps in teacher], "step": 0}).item()

    halves = (loss(slice(0, 2)) + loss(slice(2, 4))) / 2
    assert loss(slice(0, 4)) == pytest.approx(halves, rel=1e-4)
    assert loss(slice(0, 1)) == pytest.approx(
        trainer.loss(
            {"image": image[:1].repeat(4, 1, 1, 1), "teacher": [m[:1].repeat(4, 1, 1, 1) for m in teacher], "step": 0}
        ).item(),
        rel=1e-4,
    )


@every_method_only_the_quick_by_default
def test_a_student_of_another_network_is_refused(finished, method):
    trainer, _ = finished(method)
    raw = yaml.safe_load((trainer.run_dir / "config.yaml").read_text())
    others = {"mixed": ["resnet34", "resnet18"], "ead": "medium"}
    other = build_trainer(raw | {"backbone": others.get(method, "resnet34")})
    with pytest.raises(UserError, match="student.safetensors was trained with backbone"):
        other.load()


def test_a_student_of_another_teacher_is_refused(finished):
    trainer, _ = finished("st")
    raw = yaml.safe_load((trainer.run_dir / "config.yaml").read_text())
    for change in ({"weights": "bundled"}, {"seed": 1}):
        with pytest.raises(UserError, match="another teacher"):
            build_trainer(raw | change).load()


def test_two_methods_on_one_object_have_folders_of_their_own(config, monkeypatch):
    monkeypatch.setitem(TRAINERS, "st2", TRAINERS["st"])
    folders = {build_trainer(config("st", distillType=name)).run_dir for name in ("st", "st2")}
    assert len(folders) == 2


def test_an_unknown_method_lists_the_known_ones(config):
    with pytest.raises(UserError, match="'distillType' must be one of st, rd, .*got 'stpm'"):
        build_trainer(config("st", distillType="stpm"))
    with pytest.raises(UserError, match="it is missing"):
        build_trainer({"distillTyp": "st"})


def test_another_method_with_this_ones_recipe_is_noted(config, capsys):
    """config.yaml's lr of 0.4 is STPM's, and too high for Adam."""
    build_trainer(config("st"), ["distillType=rd"])
    assert "has another method's recipe" in capsys.readouterr().err
    build_trainer(config("rd"), ["distillType=rd", "seed=1"])
    assert "recipe" not in capsys.readouterr().err


def test_a_key_of_other_methods_is_said_to_be_theirs(config):
    with pytest.raises(UserError, match=r"penalty_path. for this method .it is a key of ead."):
        build_trainer(config("st"), ["TrainingData.penalty_path=photographs"])
    with pytest.raises(UserError, match=r".it is a key of st, rd, .*\. Known keys: TrainingData.*TrainingData.steps"):
        build_trainer(config("ead", {"norm": True}))


def test_the_batch_size_of_the_test_changes_nothing(finished):
    trainer, _ = finished("st")
    raw = yaml.safe_load((trainer.run_dir / "config.yaml").read_text())
    ours = np.stack([result.anomaly_map for result in all_scored(trainer)])
    raw["TrainingData"]["batch_size"] = 1
    single = build_trainer(raw | {"phase": "test"})
    single.load()
    theirs = np.stack([result.anomaly_map for result in all_scored(single)])
    np.testing.assert_allclose(theirs, ours, rtol=0.1, atol=0.02 * ours.max())


@pytest.mark.parametrize(
    ("layout", "absent", "words"),
    [
        ({"masks": False}, {"pixel_auroc", "pixel_ap", "pixel_f1max", "aupro"}, "no masks"),
        ({"bad": 0}, METRICS, "no defective"),
        ({"good": 0}, {"image_auroc", "image_ap", "image_f1max"}, "no good"),
        ({"good": 0, "bad": 0}, METRICS, "held-out good images"),
    ],
)
def test_sets_that_lack_something_still_train_and_test(config, tmp_path, layout, absent, words):
    root = write_mvtec(tmp_path, **layout)
    trainer = build_trainer(config("st", {"epochs": 1}, data_path=str(root)))
    trainer.train()
    assert set(trainer.test()) == METRICS - absent
    notes = json.loads((trainer.run_dir / "metrics.json").read_text())["notes"]
    assert any(words in note for note in notes)


def test_without_held_out_images_the_last_epoch_is_kept_and_training_images_say_what_good_scores(config):
    trainer = build_trainer(config("st", {"val_ratio": 0.0}))
    trainer.train()
    assert trainer.metadata["best_epoch"] == 2
    assert trainer.metadata["normal"]["source"] == TRAINING and len(trainer.metadata["normal"]["scores"]) == 10
    assert set(trainer.test()) == METRICS


def test_images_that_are_not_square(config):
    trainer = build_trainer(config("st", {"img_size": [64, 96], "crop_size": [64, 80], "epochs": 1}))
    trainer.train()
    assert set(trainer.test()) == METRICS
    assert trainer.anomaly_map(torch.rand(1, 3, 64, 80)).shape == (1, 1, 64, 80)


def test_a_loss_that_is_not_finite_stops_and_leaves_earlier_results(finished):
    trainer, _ = finished("st")
    before = {path: path.read_bytes() for path in files(trainer) if path.is_file()}
    raw = yaml.safe_load((trainer.run_dir / "config.yaml").read_text())
    raw["TrainingData"] |= {"lr": 1000, "norm": False, "epochs": 20}
    with pytest.raises(UserError, match="lower TrainingData.lr .*precision=fp32.*resume=false"):
        build_trainer(raw | {"precision": "fp32", "overwrite": True}).train()
    for path, content in before.items():
        assert path.read_bytes() == content


def test_teacher_features_are_computed_once(config, device, monkeypatch):
    if device.type == "cuda":
        pytest.skip("features are cached on a CPU alone: a GPU computes them faster than it fetches them")
    trainer = build_trainer(config("st", {"epochs": 3}))
    calls = []
    forward = trainer.teacher.net.forward
    monkeypatch.setattr(trainer.teacher.net, "forward", lambda image: calls.append(len(image)) or forward(image))
    trainer.train()
    # One picture each to learn the size of the maps, then the 8 training and 2 held-out ones; the held-out ones
    # once more at the end, scored by the finished student as a test scores them.
    assert sum(calls) == (1 + 8) + (1 + 2) + 2


@pytest.mark.slow
def test_what_is_cached_does_not_change_the_result(config, device):
    """cache_mb decides how much may be kept, not what is computed."""
    if device.type == "cuda":
        pytest.skip("a GPU adds in any order, so no two trainings are the same")
    scores = []
    for cache_mb in (0, 4096):
        trainer = build_trainer(
            config("st", cache_mb=cache_mb, precision="fp32", save_path=f"{config()['save_path']}{cache_mb}")
        )
        trainer.train()
        scores.append(trainer.test())
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


@every_method
def test_half_precision_leaves_parameters_in_single_and_maps_with_content(finished, method):
    """The test with a planted defect trains and tests in single precision."""
    trainer, _ = finished(method)
    if method == "ead" and trainer.compute.dtype == torch.float32:
        pytest.skip("this CPU has no instructions for bfloat16")
    assert trainer.compute.dtype == torch.bfloat16
    assert np.stack([result.anomaly_map for result in all_scored(trainer)]).std() > 0
    assert all(p.dtype == torch.float32 for p in trainer.student.parameters())


def test_testing_with_other_map_settings_says_that_scores_cannot_be_compared(finished, capsys):
    trainer, _ = finished("st")
    raw = yaml.safe_load((trainer.run_dir / "config.yaml").read_text())
    other = build_trainer(raw, ["TrainingData.sigma=4", "phase=test"])
    other.load()
    assert "sigma was 0.0, is 4.0" in capsys.readouterr().err
    assert other.metadata["normal"]["source"] == "good images, other settings"


def test_a_new_student_takes_the_old_report_away(config):
    raw = config("st", {"epochs": 1})
    trainer = build_trainer(raw)
    trainer.train()
    trainer.test()
    build_trainer(raw, ["seed=1", "overwrite=true"]).train()
    assert {path.name for path in files(trainer)} == {
        "config.yaml",
        "student.safetensors",
        "training.csv",
        "training.png",
    }
