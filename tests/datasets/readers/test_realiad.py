"""Real-IAD: which json file and which folder of images are read, and what is wrong with one."""

import json
import shutil

import pytest

from datasets import readers
from tests.datasets.readers import trees
from tests.datasets.readers.trees import config_of, entry
from utils.errors import UserError

JSON = "realiad_jsons/realiad_jsons/audiojack.json"


@pytest.fixture
def root(tmp_path):
    trees.realiad(tmp_path)
    return tmp_path


def changed(root, **values):
    path = root / JSON
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def train(root, reader="realiad"):
    return readers.train_samples(config_of(root, "audiojack", reader=reader))


def test_json_files_may_lie_one_folder_higher(root):
    expected = train(root)
    shutil.move(root / JSON, root / "realiad_jsons")
    (root / "realiad_jsons/realiad_jsons").rmdir()
    assert train(root) == expected == train(root, "auto")


def test_the_single_view_split_has_its_own_json_files(root):
    with pytest.raises(UserError, match=r"obj: .* has no category 'audiojack' \(it has: none\)"):
        train(root, "realiad_sv")
    content = json.loads((root / JSON).read_text())
    (root / "realiad_jsons_sv").mkdir()
    (root / "realiad_jsons_sv/audiojack.json").write_text(json.dumps(content | {"train": content["train"][:2]}))
    assert train(root, "realiad_sv") == train(root)[:2]


def test_the_largest_images_that_there_are_are_read(root):
    shutil.copytree(root / "realiad_1024", root / "realiad_256")
    assert all(root / "realiad_1024" in sample.path.parents for sample in train(root))
    shutil.rmtree(root / "realiad_1024")
    assert all(root / "realiad_256" in sample.path.parents for sample in train(root))
    shutil.rmtree(root / "realiad_256")
    with pytest.raises(UserError, match="has no folder of images .*realiad_1024, realiad_512, realiad_256"):
        train(root)


def test_a_missing_image_or_mask_is_named(root):
    changed(root, train=[entry("OK", "OK/S9/gone.jpg", None)])
    with pytest.raises(UserError, match=r"audiojack.json: it names .*realiad_1024/audiojack/OK/S9/gone.jpg, but"):
        train(root)


def test_a_defective_image_to_train_on_is_named(root):
    changed(root, train=json.loads((root / JSON).read_text())["test"])
    with pytest.raises(UserError, match=r"audiojack.json: its list 'train' names .*NG_AK.*, which is defective"):
        train(root)
    changed(root, train=[])
    with pytest.raises(UserError, match="its list 'train' names no images"):
        train(root)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"meta": {"prefix": "audiojack/", "normal_class": "OK"}, "train": [{}]}', b"\xff"]
)
def test_a_damaged_json_file_is_named(root, content):
    path = root / JSON
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"audiojack.json: (cannot be read as Real-IAD's json|this file is damaged)"):
        train(root)
