"""Every preset is a params file that works as it stands, but for the images; and how one is written out."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sslpipe import evals, methods, presets
from sslpipe.check import check_data, check_networks
from sslpipe.cli import main
from sslpipe.console.errors import UserError
from sslpipe.core import yaml
from sslpipe.core.config import flatten, merge
from sslpipe.settings import OWNERS, SECTIONS, Settings, load
from sslpipe.sharding.source import Source
from sslpipe.sharding.sources import open_source
from sslpipe.training.core.build import backbone_name, build_method

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "presets"
NAMES = presets.names(FOLDER)
IMAGES = Source("images", ("a", "b"), {"train": range(500_000), "test": range(10_000)})  # type: ignore[dict-item]
# One of each backbone; the others build as many networks.
QUICK = ("mnist5k", "cifar10-resnet18", "folder-224-vit-b")
LAYOUT = (FOLDER / f"{presets.LAYOUT}.yaml").read_text()


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def clone(project: Path) -> Path:
    """A git clone with presets and a committed params.yaml."""
    shutil.copytree(FOLDER, "presets")
    shutil.copy(FOLDER / "mnist5k.yaml", "params.yaml")
    for command in ("init -q", "add --all", "-c user.name=T -c user.email=t@example.org commit -qm start"):
        subprocess.run(["git", *command.split()], check=True)
    return project


def values_of(name: str, folder: Path) -> dict[str, Any]:
    """What a preset sets, that of the presets it starts from included."""
    found: dict[str, Any] = {}
    for each in presets._chain(name, folder):
        own = yaml.read(folder / f"{each}.yaml")
        if "backbone" in own.get("pretrain", {}):
            found.get("pretrain", {}).pop("backbone_options", None)
        found = merge(found, own)
    found.pop("base", None)
    return found


def settings_of(name: str) -> Settings:
    return Settings(values_of(name, FOLDER)).validate()


def resolved(settings: Settings) -> dict[str, Any]:
    sections = {each: getattr(settings, each).model_dump() for each in (*OWNERS, *evals.names())}
    own = {each: settings.method_config(each).model_dump() for each in methods.names()}
    return {"seed": settings.seed, **sections, "methods": own}


def test_there_are_presets_and_together_they_are_short() -> None:
    assert len(NAMES) >= 12
    assert sum(len((FOLDER / f"{each}.yaml").read_text().splitlines()) for each in NAMES) <= 600


def test_its_method_can_be_built(name: str) -> None:
    settings = settings_of(name)
    pretrain, size = settings.pretrain, settings.views.size
    with torch.device("meta"):
        method = build_method(pretrain, settings.method, size, settings.seed)
    assert method.parameter_groups()
    assert all(parameter.is_meta for parameter in method.parameters())
    assert size <= settings.shard.resolution


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_check_accepts_every_method_that_takes_its_backbone(name: str) -> None:
    backbone = settings_of(name).pretrain.backbone
    kind = "vit" if "vit" in backbone or "beit" in backbone else "resnet"
    fitting = [each for each in methods.names() if backbone == "auto" or kind in methods.find(each).takes]
    assert settings_of(name).pretrain.method in fitting
    for each in fitting:
        raw = copy.deepcopy(settings_of(name).raw)
        settings = Settings(merge(raw, {"pretrain": {"method": each}})).validate()
        said = "\n".join([*check_data(settings, IMAGES), *check_networks(settings, IMAGES)])
        assert f"method: {each} trains {backbone_name(settings.pretrain)}" in said
        assert "note:" not in said  # of a batch or a queue


def test_only_the_images_are_missing(name: str, project: Path) -> None:
    settings = settings_of(name)
    if settings.data.source != "folder":
        return
    with pytest.raises(UserError, match=r"data\.root: there is no folder"):
        open_source(settings.data, settings.seed)


def test_it_holds_only_what_differs(name: str) -> None:
    """No value of a section is the default, but those that say something by being there or undo the base's."""
    if name == presets.LAYOUT:
        return
    raw = yaml.read(FOLDER / f"{name}.yaml")
    below = Settings(values_of(raw["base"], FOLDER) if "base" in raw else {})
    same = []
    for section, values in raw.items():
        if section in OWNERS or section in evals.names():
            before = getattr(below, section).model_dump(mode="json")
            same += [f"{section}.{key}" for key, value in values.items() if before[key] == value]
    worth_a_comment = {"data.root", "data.test_fraction", "online.enabled", "pretrain.method",
                       "pretrain.backbone", "pretrain.backbone_options", "pretrain.epochs",
                       "pretrain.batch_size", "finetune.epochs"}  # fmt: skip
    assert set(same) <= worth_a_comment


def test_written_out_it_sets_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(presets.whole(name, FOLDER))
    assert resolved(load(path)) == resolved(settings_of(name))


def test_written_out_it_keeps_its_comments_and_the_layouts(name: str) -> None:
    text, own = presets.whole(name, FOLDER), (FOLDER / f"{name}.yaml").read_text()
    for comment in re.findall(r"^[^#\n]\S.* # (.*)$|^# (.*)$", own, re.MULTILINE):
        assert "".join(comment) in text
    for line in LAYOUT.splitlines():
        if line.startswith("# The only file") or "# everything random" in line:
            assert line in text


def test_the_layouts_own_preset_is_written_as_it_stands() -> None:
    assert presets.whole(presets.LAYOUT, FOLDER) == LAYOUT


def test_params_yaml_is_that_preset() -> None:
    shipped = ROOT / "params.yaml"
    if load(shipped).flat() != settings_of(presets.LAYOUT).flat():
        pytest.skip("params.yaml has settings of your own")
    assert shipped.read_text() == LAYOUT


def lines(text: str) -> Iterator[tuple[str, str, bool]]:
    """Section, `key: value` and whether it is commented out, of all lines that have the form of one."""
    section = ""
    for line in text.splitlines():
        found = re.fullmatch(r"( {2})?(# )?(\w+:( [\[{\w].*?)?)(?: +#.*)?", line)
        if not found:
            continue
        indent, off, pair, _ = found.groups()
        if not indent and off and pair.partition(":")[0] not in SECTIONS:
            continue
        section = section if indent else ""
        yield section, pair, bool(off)
        if not indent:
            section = pair.partition(":")[0]


def test_lines_that_are_commented_out_are_valid_and_say_the_default(tmp_path: Path) -> None:
    found = list(lines(LAYOUT))
    assert sum(off for *_, off in found) >= 12
    path = tmp_path / "params.yaml"
    for section, pair, off in found:
        if not off:
            continue
        text = f"{section}:\n  {pair}\n" if section else f"{pair}\n"
        path.write_text(text)
        load(path)
        (name, values), *_ = yaml.read(path).items()
        default = flatten(getattr(Settings({}), name).model_dump(mode="json"))
        for key, value in values.items():
            example = isinstance(value, dict) or not section
            assert example or default[key] == value, (name, key)


def test_the_list_says_what_each_is_for(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preset"]) == 0
    said = capsys.readouterr().out
    for each in NAMES:
        first = (FOLDER / f"{each}.yaml").read_text().splitlines()[0]
        assert re.search(rf"^{each} +{re.escape(first.removeprefix('# '))}$", said, re.MULTILINE)


def test_one_is_written_with_what_differs_from_before(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["preset", "elpv-cpu"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("wrote params.yaml: preset elpv-cpu\n")
    assert re.search(r'data\.source +"mnist5k" → "elpv"', said)
    assert "seed" not in said
    assert load("params.yaml").data.source == "elpv"
    assert main(["preset", "cifar100-resnet18"]) == 0, "what a preset wrote is no work of the user's"
    assert load("params.yaml").data.source == "torchvision:CIFAR100"


def test_changes_are_not_written_over(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = Path("params.yaml").read_text().replace("epochs: 36", "epochs: 37")
    Path("params.yaml").write_text(mine)
    assert main(["preset", "elpv-cpu"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "--force" in line
    assert "git commit params.yaml" in line
    assert Path("params.yaml").read_text() == mine
    assert main(["preset", "elpv-cpu", "--out", "other.yaml"]) == 0
    assert Path("params.yaml").read_text() == mine
    subprocess.run(
        ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "-qam", "x"], check=True
    )
    assert main(["preset", "elpv-cpu"]) == 0
    Path("params.yaml").write_text(mine)
    assert main(["preset", "elpv-cpu", "--force"]) == 0
    assert load("params.yaml").data.source == "elpv"


def test_outside_git_only_what_a_preset_wrote_is_written_over(project: Path) -> None:
    shutil.copytree(FOLDER, "presets")
    assert list(presets.write("mnist5k"))[1] == "there was no valid file to compare it with"
    assert list(presets.write("mnist5k"))[1] == "  every setting is as it was"
    Path("params.yaml").write_text("seed: 3\n")
    with pytest.raises(UserError, match="would be lost"):
        list(presets.write("elpv-cpu"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["elpv-cpuu"], "did you mean `elpv-cpu`"),
        (["elpv-cpu", "--out", "nowhere/params.yaml"], "writing nowhere/params.yaml"),
    ],
)
def test_what_cannot_be_is_said(
    clone: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["preset", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_missing_folder_is_said(project: Path) -> None:
    with pytest.raises(UserError, match="run this in a clone of the project"):
        presets.listing()


def test_one_starts_from_another(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "mnist5k.yaml", tmp_path)
    (tmp_path / "a.yaml").write_text(
        "# A.\nviews: {size: 16}\n\nknn:\n  k: 3  # three\n  device: cpu  # slow\n"
        "methods:\n  byol:  # Grill\n    optimizer: {name: sgd, lr: 1.0e-2}\n"
    )
    (tmp_path / "b.yaml").write_text(
        "# B.\nbase: a\nknn: {k: 5}\nmethods:\n  byol:\n    optimizer: {lr: 0.5}\n"
    )
    assert values_of("b", tmp_path) == {
        "views": {"size": 16},
        "knn": {"k": 5, "device": "cpu"},
        "methods": {"byol": {"optimizer": {"name": "sgd", "lr": 0.5}}},
    }
    text = presets.whole("b", tmp_path)
    assert text.startswith("# B.\n#\n# The only file to edit.")
    assert "# three" not in text  # it was said of 3
    assert re.search(r"  k: 5 +# neighbours that vote", text)
    assert re.search(r"  device: cpu +# slow", text)
    assert re.search(r"  byol: +# Grill\n    optimizer: \{name: sgd, lr: 0.5\}", text)
    assert "  defaults: paper " in text  # the layout's value gives way to the default
    (tmp_path / "a.yaml").write_text("# A.\nbase: b\n")
    with pytest.raises(UserError, match="start from each other"):
        presets.whole("b", tmp_path)
    (tmp_path / "a.yaml").write_text("# A.\nbase: c\n")
    with pytest.raises(UserError, match="base of the preset a: unknown value `c`"):
        values_of("b", tmp_path)


@pytest.mark.parametrize("preset", ["cifar10-resnet18", "cifar100-resnet18", "stl10-resnet18"])
def test_rotation_on_small_images_has_the_steps_of_its_official_cifar_experiments(preset: str) -> None:
    own = settings_of(preset).method_config("rotation").optimizer
    rates = [own.lr * own.step_factor**steps for steps in range(4)]
    assert rates == pytest.approx([0.1, 0.02, 0.004, 0.0008])
    assert own.milestones == (60 / 200, 120 / 200, 160 / 200)


@pytest.mark.parametrize("preset", ["folder-224-resnet50", "imagenet-resnet50", "imagenet100-resnet50"])
def test_rotation_of_a_resnet50_has_a_rate_that_grows_with_the_batch(preset: str) -> None:
    settings = settings_of(preset)
    batch = settings.pretrain.batch_size
    assert settings.method_config("rotation").optimizer.peak(batch) == pytest.approx(0.1 * batch / 256)


@pytest.mark.parametrize("preset", ["folder-224-beit-b", "imagenet-beit-b"])
@pytest.mark.parametrize("method", ["beit", "simmim"])
def test_beit_and_simmim_have_the_network_of_their_papers(preset: str, method: str) -> None:
    settings = Settings(merge(copy.deepcopy(settings_of(preset).raw), {"pretrain": {"method": method}}))
    with torch.device("meta"):
        network = build_method(settings.pretrain, settings.method, 224, 0).backbone
    names = dict(network.named_parameters())
    assert not any("pos_embed" in name for name in names)
    # (2·14 − 1)² offsets and 3 for the class token, of 12 heads, once for all blocks.
    assert names["model.rel_pos_bias.relative_position_bias_table"].shape == (732, 12)
    assert sum("gamma_1" in name for name in names) == 12
    assert network.options["layer_scale"] == 0.1
    assert network.options["drop_path"] == 0.1
    assert network.options["start"] == "beit"
    assert network.patch_size == 16


@pytest.mark.parametrize("preset", ["imagenet-vit-b", "imagenet100-vit-b", "imagenet-beit-b"])
def test_fine_tuning_of_a_vit_b_is_maes_and_beits(preset: str) -> None:
    """MAE's FINETUNE.md, and BEiT's get_started_for_image_classification.md, and the defaults of their scripts."""
    own = settings_of(preset).finetune
    assert (own.labels, own.epochs, own.layer_decay) == ("all", 100, 0.65)
    assert (own.drop_path, own.weight_decay) == (0.1, 0.05)
    assert (own.norm, own.label_smoothing, own.crop_scale) == ("after", 0.1, (0.08, 1.0))
    assert own.mixing.model_dump() == {
        "rand_augment": "rand-m9-mstd0.5-inc1", "erasing": 0.25, "mixup": 0.8, "cutmix": 1.0, "probability": 1.0,
    }  # fmt: skip
    rate, warmup = (4e-3, 20) if "beit" in preset else (5e-4 * 1024 / 256, 5)
    assert own.lr * 1024 / own.batch_size == pytest.approx(rate)
    assert own.warmup_epochs == warmup


@pytest.mark.parametrize("preset", [name for name in NAMES if name.startswith("imagenet")])
def test_linear_probes_on_imagenet_are_trained_as_papers_do(preset: str) -> None:
    settings = settings_of(preset)
    assert settings.online.enabled
    assert settings.online.epochs >= 90
    assert max(settings.online.lrs) >= 3
    if "vit-b" in preset:  # of which MAE reads the class token
        assert settings.embed.pool == "paper"
        assert methods.find("mae").probe_pool == "cls"
