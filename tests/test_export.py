import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

import sslpipe
from sslpipe.console.errors import UserError
from sslpipe.export import Preprocess, save_encoder
from sslpipe.networks import Backbone, backbone

PREPROCESS: dict[str, Any] = {
    "size": 8,
    "crop": 0.75,
    "interpolation": "bilinear",
    "mean": [0.1, 0.2, 0.3],
    "std": [0.5, 0.4, 0.3],
}


@pytest.fixture
def encoder() -> Backbone:
    network = backbone("small_resnet", image_size=8, width=4, stages=3)
    network(torch.randn(4, 3, 8, 8))  # moves the batch-norm statistics
    return network.eval()


@pytest.fixture
def saved(encoder: Backbone, tmp_path: Path) -> Path:
    save_encoder(encoder, tmp_path / "models", preprocess=PREPROCESS, info={"method": "simclr"})
    return tmp_path / "models" / "encoder.safetensors"


@pytest.mark.parametrize("name", ["small_resnet", "small_vit"])
def test_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    options = {"width": 16, "depth": 1, "heads": 2} if name == "small_vit" else {"width": 4}
    encoder = backbone(name, image_size=16, **options)
    save_encoder(encoder, tmp_path, preprocess=PREPROCESS, info={"seed": 3})
    loaded = sslpipe.load_encoder(tmp_path / "encoder.safetensors")
    x = torch.randn(2, 3, 16, 16)
    assert not loaded.training
    assert loaded.info == {"seed": 3}
    assert torch.equal(loaded(x), encoder.eval()(x))
    assert torch.equal(loaded.tokens(x), encoder.tokens(x))
    assert (loaded.name, loaded.options, loaded.image_size) == (name, encoder.options, 16)


def test_the_same_encoder_gives_the_same_bytes(encoder: Backbone, saved: Path, tmp_path: Path) -> None:
    save_encoder(encoder, tmp_path / "again", preprocess=PREPROCESS, info={"method": "simclr"})
    for name in ("encoder.safetensors", "encoder.json"):
        assert (tmp_path / "again" / name).read_bytes() == (saved.parent / name).read_bytes()


def test_the_json_says_what_it_is(saved: Path) -> None:
    header = json.loads(saved.with_suffix(".json").read_text())
    assert header["name"] == "small_resnet"
    assert header["options"] == {"width": 4, "stages": 3, "depth": 1, "stem_stride": 2}
    assert header["dim"] == 16
    assert header["preprocess"] == {**PREPROCESS, "resolution": None}


def test_an_encoder_without_a_resolution_takes_images_as_they_are(saved: Path) -> None:
    header = json.loads(saved.with_suffix(".json").read_text())
    del header["preprocess"]["resolution"]
    saved.with_suffix(".json").write_text(json.dumps(header))
    image = np.random.default_rng(0).integers(0, 256, (20, 28, 3), np.uint8)
    assert torch.equal(sslpipe.load_encoder(saved).preprocess(image), Preprocess(**PREPROCESS)(image))


def test_preprocess_is_torchvisions_centre_crop_resize_and_normalise() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 28, 3), np.uint8))
    x = F.to_dtype(F.pil_to_tensor(image), torch.float32, scale=True)
    x = F.resize(F.center_crop(x, [15]), [8], antialias=True)
    expected = F.normalize(x, PREPROCESS["mean"], PREPROCESS["std"])
    torch.testing.assert_close(Preprocess(**PREPROCESS)(image)[0], expected, atol=2e-5, rtol=0)


def test_preprocess_takes_every_common_form() -> None:
    preprocess = Preprocess(**PREPROCESS)
    array = np.random.default_rng(0).integers(0, 256, (20, 28, 3), np.uint8)
    expected = preprocess(array)
    chw = torch.from_numpy(array).permute(2, 0, 1)
    assert expected.shape == (1, 3, 8, 8)
    assert expected.dtype == torch.float32
    for form in (Image.fromarray(array), torch.from_numpy(array), chw, array[None], [array], chw[None]):
        assert torch.equal(preprocess(form), expected)


def test_preprocess_takes_paths(tmp_path: Path) -> None:
    preprocess = Preprocess(**PREPROCESS)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 28, 3), np.uint8))
    path = tmp_path / "a.png"
    image.save(path)
    image.save(tmp_path / "b.jpg")
    assert torch.equal(preprocess(path), preprocess(image))
    assert torch.equal(preprocess(str(path)), preprocess(image))
    expected = torch.cat([preprocess(image), preprocess(Image.open(tmp_path / "b.jpg"))])
    assert torch.equal(preprocess([str(path), tmp_path / "b.jpg"]), expected)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.png", None, "missing.png is missing: give preprocess the path of an image file"),
        ("text.png", b"no picture", "cannot read .*text.png: not an image"),
        ("empty.png", b"", "cannot read .*empty.png: empty file"),
        (".", None, "reading .*: Is a directory"),
    ],
)
def test_preprocess_says_which_file_is_no_image(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for given in (path, str(path), [path]):
        with pytest.raises(UserError, match=message):
            Preprocess(**PREPROCESS)(given)


def test_preprocess_says_what_is_wrong_with_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)).save(path)
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)
    with pytest.raises(
        UserError, match=r"cannot read .*a\.png: more pixels than PIL\.Image\.MAX_IMAGE_PIXELS"
    ):
        Preprocess(**PREPROCESS)(path)
    monkeypatch.undo()
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cannot read .*a\.png: truncated"):
        Preprocess(**PREPROCESS)(path)


def test_preprocess_takes_grey_images() -> None:
    preprocess = Preprocess(**PREPROCESS)
    grey = np.random.default_rng(0).integers(0, 256, (20, 28), np.uint8)
    expected = preprocess(np.stack([grey] * 3, axis=2))
    for form in (grey, Image.fromarray(grey), grey[None], grey[:, :, None]):
        assert torch.equal(preprocess(form), expected)


def test_preprocess_reads_pil_images_as_sharding_does() -> None:
    preprocess = Preprocess(**PREPROCESS)
    values = np.random.default_rng(0).integers(0, 256, (12, 9, 4), np.uint8)
    transparent = Image.fromarray(values)
    on_white = Image.new("RGBA", (9, 12), "white")
    on_white.alpha_composite(transparent)
    assert torch.equal(preprocess(transparent), preprocess(on_white.convert("RGB")))
    sixteen = Image.fromarray(values[:, :, 0].astype(np.uint16) * 257)
    assert torch.equal(preprocess(sixteen), preprocess(values[:, :, 0]))
    turned = Image.fromarray(values[:, :, :3])
    turned.getexif()[0x0112] = 6  # shown turned by 90 degrees clockwise
    assert torch.equal(preprocess(turned), preprocess(np.rot90(values[:, :, :3], -1).copy()))


def test_an_image_does_not_depend_on_those_beside_it() -> None:
    preprocess = Preprocess(**PREPROCESS)
    images = [np.full((h, w, 3), 3 * h, np.uint8) for h, w in ((20, 28), (9, 5), (64, 3))]
    together = preprocess(images)
    assert torch.equal(together, torch.cat([preprocess(image) for image in images]))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), "uint8 pixels from 0 to 255, not float32"),
        (Image.fromarray(np.zeros((8, 8), np.float32)), "floating-point pixels"),
        (np.zeros((8, 8, 4), np.uint8), "1 or 3 channels"),
        (np.zeros((0, 8, 3), np.uint8), "1 or 3 channels"),
        ([], "given no image"),
    ],
)
def test_preprocess_refuses_what_it_cannot_read(images: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Preprocess(**PREPROCESS)(images)


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_truncated_weights_are_refused(saved: Path, length: int) -> None:
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(UserError, match=r"encoder.safetensors is damaged"):
        sslpipe.load_encoder(saved)


def test_weights_of_another_encoder_are_refused(saved: Path, tmp_path: Path) -> None:
    other = backbone("small_resnet", image_size=8, width=4, stages=3)
    save_encoder(other, tmp_path / "other", preprocess=PREPROCESS, info={})
    saved.write_bytes((tmp_path / "other" / "encoder.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"not the one that encoder\.json describes"):
        sslpipe.load_encoder(saved)


def test_a_json_of_another_architecture_is_refused(saved: Path) -> None:
    header = json.loads(saved.with_suffix(".json").read_text())
    header["options"]["width"] = 8
    saved.with_suffix(".json").write_text(json.dumps(header))
    with pytest.raises(UserError, match="does not fit the network"):
        sslpipe.load_encoder(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 2}'])
def test_a_damaged_json_is_refused(saved: Path, text: str) -> None:
    saved.with_suffix(".json").write_text(text)
    with pytest.raises(UserError, match=r"encoder\.json is damaged or from another version"):
        sslpipe.load_encoder(saved)


@pytest.mark.parametrize("missing", ["encoder.safetensors", "encoder.json"])
def test_a_missing_file_is_named(saved: Path, missing: str) -> None:
    (saved.parent / missing).unlink()
    with pytest.raises(UserError, match=rf"{missing} is missing: run `dvc repro pretrain`"):
        sslpipe.load_encoder(saved)
