"""Every method that mirrors its teacher, on CNNs that are no ResNets."""

import itertools

import pytest
import torch

from engine.student_file import changes
from trainer import build_trainer, read_run
from utils.config import result_settings
from utils.errors import UserError

MIRRORING = ["rd", "rdpp", "rnrd", "rnst", "dbfad"]
FAMILIES = ["tf_efficientnet_lite1", "mobilenetv3_small_100", "regnetx_002", "densenet121", "convnext_atto"]
# By default, each method and each family once; all others are in the slow part.
DEFAULT = set(zip(MIRRORING, FAMILIES, strict=True))
PAIRS = [
    pytest.param(*pair, marks=[] if pair in DEFAULT else pytest.mark.slow)
    for pair in itertools.product(MIRRORING, FAMILIES)
]


def settings(method, backbone, levels=3):
    """Levels of strides 4, 8 ...; DBFAD's begin with stride 2 where the network has that."""
    first = 0 if backbone.startswith("convnext") else 1
    if method == "dbfad":
        return {"img_size": 192 if first == 0 else 96}, {"backbone": backbone, "out_indice": [0, 1, 2, 3]}
    memories = {"memories": list(range(levels))} if method == "rnrd" else {}
    size = 64 if levels < 4 else 128
    return {"img_size": size} | memories, {"backbone": backbone, "out_indice": list(range(first, first + levels))}


@pytest.mark.slow
@pytest.mark.parametrize("method", MIRRORING)
def test_a_mobile_network_trains_its_student_and_tests(config, method):
    training, top = settings(method, "tf_efficientnet_lite0")
    trainer = build_trainer(config(method, training | {"epochs": 1, "lr": 0.01}, weights="imagenet", **top))
    trainer.train()
    metrics = trainer.test()
    assert 0 <= metrics["image_auroc"] <= 1 and trainer.metadata["teachers"][0]["package"]
    again = build_trainer(config(method, training | {"epochs": 1, "lr": 0.01}, weights="imagenet", phase="test", **top))
    again.load()
    assert again.test() == metrics


@pytest.mark.parametrize(("method", "backbone"), PAIRS)
def test_the_students_maps_have_the_teachers_shapes_and_both_signs(config, method, backbone):
    training, top = settings(method, backbone)
    trainer = build_trainer(config(method, training, **top))
    size = training["img_size"]
    teacher, student = trainer.features(torch.rand(1, 3, size, size))
    assert [m.shape for m in student] == [m.shape for m in teacher]
    assert all(m.min() < 0 < m.max() for m in student)


@pytest.mark.parametrize("method", ["rd", "rdpp", "rnrd", "rnst"])
@pytest.mark.parametrize("levels", [2, 4])
def test_two_and_four_levels(config, method, levels):
    """Memory 0 learns from the level after the last one, so with four levels RNRD has no place for it."""
    training, top = settings(method, "tf_efficientnet_lite0", levels)
    if method == "rnrd" and levels == 4:
        with pytest.raises(UserError, match=r"no level 5.*write TrainingData.memories=\[1,2,3\]$"):
            build_trainer(config(method, training | {"memories": [0, 1, 2]}, **top))  # the defaults
        training["memories"] = [1, 2, 3]
    trainer = build_trainer(config(method, training, **top))
    teacher, student = trainer.features(torch.rand(1, 3, training["img_size"], training["img_size"]))
    assert [m.shape for m in student] == [m.shape for m in teacher] and len(teacher) == levels


@pytest.mark.parametrize("method", MIRRORING)
def test_widths_are_the_students_channels(config, method):
    training, top = settings(method, "regnetx_002")
    sizes = []
    for width in (8, 16):
        widths = [width] * len(top["out_indice"])
        trainer = build_trainer(config(method, training | {"widths": widths}, **top))
        sizes.append(sum(p.numel() for p in trainer.student.parameters()))
        assert trainer.anomaly_map(torch.rand(1, 3, *trainer.options.crop_size)).isfinite().all()
    assert sizes[0] < sizes[1]
    with pytest.raises(UserError, match="widths"):
        build_trainer(config(method, training | {"widths": [8]}, **top))


@pytest.mark.parametrize("method", MIRRORING)
def test_students_from_before_widths_could_be_auto(config, method):
    """They had null, as those of RNST and DBFAD still have; auto is another setting, so it replaces none."""
    training, top = settings(method, "tf_efficientnet_lite0")
    training, top = training | {"widths": None}, top | {"weights": "random"}
    before = build_trainer(config(method, training, **top))
    before.run_dir.mkdir(parents=True)
    before.save()
    build_trainer(config(method, training, **top)).load()
    training.pop("widths")
    if method in ("rnst", "dbfad"):
        build_trainer(config(method, training, **top)).load()
    else:
        with pytest.raises(UserError, match="contains another network .* is .*, not .*"):
            build_trainer(config(method, training, **top)).load()
    then, now = (result_settings(read_run(config(method, {"widths": widths}))[1]) for widths in (None, "auto"))
    assert changes(then, now) == "TrainingData.widths was None, is auto"


def test_a_mixed_pair_of_mobile_networks(config):
    top = {"backbone": ["regnetx_002", "tf_efficientnet_lite0"], "out_indice": [[1, 2], [2, 3]], "weights": "random"}
    trainer = build_trainer(config("mixed", **top))
    teacher, student = trainer.features(torch.rand(1, 3, 64, 64))
    assert [m.shape for m in student] == [m.shape for m in teacher] and len(teacher) == 4


def test_a_vision_transformer_teaches_stpm_at_its_own_size(config):
    """All its levels have one stride. At another size the error names the one that it needs."""
    top = {"backbone": "vit_tiny_patch16_224", "out_indice": [2, 5, 8]}
    trainer = build_trainer(config("st", {"img_size": 224, "epochs": 1}, **top))
    teacher, student = trainer.features(torch.rand(1, 3, 224, 224))
    assert [tuple(m.shape) for m in teacher] == [tuple(m.shape) for m in student] == [(1, 192, 14, 14)] * 3
    with pytest.raises(UserError, match=r"vit_tiny_patch16_224.* \(256, 256\); write TrainingData.img_size=224$"):
        build_trainer(config("st", {"img_size": 256}, **top))
    with pytest.raises(UserError, match="this method needs levels of strides .*; use distillType=st or mixed$"):
        build_trainer(config("rd", {"img_size": 224}, **top))


@pytest.mark.parametrize("method", MIRRORING)
def test_a_network_whose_levels_are_no_halves_is_refused_before_anything_is_trained(config, method):
    """Xception's first convolutions do not pad, so stride 4 gives 31 of 32 positions."""
    training, top = settings(method, "legacy_xception")
    if method == "dbfad":
        training["img_size"] = 192  # a multiple of 64
    with pytest.raises(UserError, match=r"backbone 'legacy_xception': this method needs levels of .* positions \(got"):
        build_trainer(config(method, training, **top))
