import numpy as np
import pytest

from mona_peft.finetuning.data.embedded.scenes import (
    CLASS_NAMES,
    IGNORED,
    PHOTOGRAPHS,
    SPLITS,
    SceneSettings,
    compose_scene,
    load_photographs,
    load_scans,
)

SCENES = SceneSettings(size=64)


def scenes(split, count=40):
    return [compose_scene(split, index, SCENES) for index in range(count)]


def test_a_scene_depends_on_its_number_alone():
    np.random.seed(3)
    first = compose_scene("train", 7, SCENES)
    np.random.seed(4)
    again, other = compose_scene("train", 7, SCENES), compose_scene("train", 8, SCENES)
    for name in ("image", "masks", "boxes", "labels", "semantic"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.image, other.image)
    assert not np.array_equal(first.image, compose_scene("validation", 7, SCENES).image)


def test_masks_boxes_and_label_map_say_the_same():
    seen = 0
    for scene in scenes("train"):
        assert scene.masks.sum(0).max(initial=0) <= 1  # every pixel has one owner
        for mask, box, label in zip(scene.masks, scene.boxes, scene.labels, strict=True):
            rows, columns = np.nonzero(mask)
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box.tolist()
            assert (scene.semantic[mask] == label + 1).all()
            seen += 1
        outside = ~scene.masks.any(0)
        assert set(np.unique(scene.semantic[outside])) <= {0, IGNORED}
    assert seen > 40


def test_digits_can_be_seen_and_the_photograph_stays_elsewhere():
    rng_free = SceneSettings(size=64, empty_share=1.0)
    for index in range(20):
        scene = compose_scene("train", index, SCENES)
        bare = compose_scene("train", index, rng_free)
        changed = np.abs(scene.image.astype(int) - bare.image).max(-1) > 0
        assert not len(bare.labels)
        far = ~(scene.masks.any(0) | (scene.semantic == IGNORED))
        # Faint ink, below the rim's share, is all that may have changed outside.
        assert np.abs(scene.image.astype(int) - bare.image)[far].max(initial=0) <= 0.21 * 255
        assert changed[scene.masks.any(0)].mean() > 0.5 if len(scene.labels) else not changed.any()


def test_some_scenes_are_empty_and_every_class_comes():
    found = scenes("test", 100)
    assert any(not len(scene.labels) for scene in found)
    assert set(np.concatenate([scene.labels for scene in found])) == set(range(len(CLASS_NAMES)))


def test_splits_share_no_scan_and_no_photograph():
    names = [name for split in SPLITS for name in PHOTOGRAPHS[split]]
    assert len(names) == len(set(names)) == sum(len(load_photographs(split)) for split in SPLITS)
    scans = [{scan.tobytes() for scan in load_scans(split)[0]} for split in SPLITS]
    assert sum(map(len, scans)) == 896  # all scans of 5 to 9, each once
    assert not scans[0] & scans[1] and not scans[0] & scans[2] and not scans[1] & scans[2]


def test_ink_and_brightness_are_settings():
    dim = SceneSettings(size=64, empty_share=0.0, dark_ink_share=0.0, brightness=0.4)
    for index in range(20):
        scene = compose_scene("train", index, dim)
        photograph, digits = scene.image[scene.semantic == 0], scene.image[scene.masks.any(0)]
        assert photograph.mean() < 0.4 * 255 < digits.mean()
    dark = SceneSettings(size=64, empty_share=0.0, dark_ink_share=1.0)
    assert all(s.image[s.masks.any(0)].mean() < 128 for s in (compose_scene("train", i, dark) for i in range(20)))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="no split 'val'"):
        compose_scene("val", 0)
    with pytest.raises(ValueError, match="describes no scene"):
        SceneSettings(object_share=(0.5, 0.2))
    with pytest.raises(ValueError, match="brightness=1.5 must be from 0 to 1"):
        SceneSettings(brightness=1.5)
