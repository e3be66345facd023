from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sslpipe import evals, methods
from sslpipe.core.yaml import read
from sslpipe.settings import OWNERS, SECTIONS, Settings, SettingsError, load


def write(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text)
    return path


def test_an_empty_file_of_sections_gives_defaults(tmp_path: Path) -> None:
    settings = load(write(tmp_path, "pretrain:\n"))
    assert (settings.seed, settings.data.source, settings.knn.k) == (0, "mnist5k", 20)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pretrian: {}", "unknown key `pretrian`; did you mean `pretrain`?"),
        ("pretrain: {epoch: 3}", "pretrain: unknown key `epoch`; did you mean `epochs`?"),
        ("pretrain: {epochs: ten}", 'pretrain.epochs: should be a valid integer, not "ten"'),
        ("pretrain: {epochs: 2.5}", "pretrain.epochs: should be a valid integer"),
        ("pretrain: {epochs: 0}", "pretrain.epochs: should be greater than or equal to 1, not 0"),
        ("pretrain: {method: simclrr}", "unknown value `simclrr`; did you mean `simclr`?"),
        ("pretrain: {method: ../base}", "unknown value `../base`"),
        ("methods: {simcl: {}}", "methods: unknown key `simcl`; did you mean `simclr`?"),
        (
            "methods: {byol: {optimizer: {lrr: 1}}}",
            "methods.byol.optimizer: unknown key `lrr`; did you mean `lr`?",
        ),
        ("methods: {simclr: {temperature: 0}}", "methods.simclr.temperature: should be greater than 0"),
        ("data: {source: mnist}", "mnist5k"),
        ("data: {source: folder}", "root"),
        ("knn: {enabled: on}", 'knn.enabled: should be a valid boolean, not "on"'),
        ("pretrain: [1]", "pretrain: should be a section with keys"),
        ("seed: -1", "seed: should be a whole number"),
        ("seed: true", "seed: should be a whole number"),
        ("linear: {lrs: [0.1, x]}", 'linear.lrs: should be a valid number, not "x"'),
        ("finetune: {labels: some}", "finetune.labels"),
        ("just words", "should hold `key: value` sections"),
        ("a: [1", "line"),
        ("seed: 1\nseed: 2", 'duplicate key "seed"'),
        ("seed: !!python/object/apply:os.getcwd []", "line 1"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, text))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="missing"):
        load(tmp_path / "params.yaml")


def test_scalars_are_read_as_yaml_1_2(tmp_path: Path) -> None:
    # DVC reads 1e-3 as a number and 0o17 as octal; YAML 1.1 would not.
    settings = load(write(tmp_path, "methods: {simclr: {temperature: 1e-3}}\nseed: 0o17"))
    assert settings.method.temperature == 1e-3  # type: ignore[attr-defined]
    assert settings.seed == 15


def test_yaml_is_read_as_dvc_reads_it(tmp_path: Path) -> None:
    serialize = pytest.importorskip("dvc.utils.serialize")
    text = (
        "{a: 1e-3, b: on, c: yes, d: 0o17, e: 0x1f, f: ~, g: .inf, h: 1_000, i: 12:30, j: 2026-01-01, k: 010,"
        " l: 1., m: .5, n: +3, o: -1e5, p: 'x', q: NO, r: true, s: False, t: null, u: 1e3, v: '', w: [1, 2.0]}"
    )
    path = write(tmp_path, text)
    expected, ours = serialize.parse_yaml(text, str(path)), read(path)
    assert ours == expected
    assert {key: type(value) for key, value in ours.items()} == {
        key: type(value) for key, value in expected.items()
    }


def test_nested_settings_may_be_given_in_part() -> None:
    settings = Settings({"methods": {"byol": {"optimizer": {"lr": 0.2}}}, "pretrain": {"method": "byol"}})
    assert settings.method.optimizer.lr == 0.2
    assert settings.method.optimizer.name == "lars"  # the paper's, not the generic default


def test_flat_has_what_is_left_out_but_neither_tracking_nor_other_methods() -> None:
    raw = {"seed": 1, "tracking": {"experiment": "x"}, "pretrain": {"method": "mae"},
           "methods": {"mae": {"mask_ratio": 0.5}, "byol": {"momentum": 0.9}}}  # fmt: skip
    flat = Settings(raw).flat()
    assert (flat["seed"], flat["pretrain.method"], flat["pretrain.epochs"]) == (1, "mae", 36)
    own = {key: value for key, value in flat.items() if key.startswith(("methods", "tracking"))}
    assert own == {"methods.mae.mask_ratio": 0.5}
    assert flat["pretrain.cluster.nodes"] == 1


def test_flat_says_of_an_evaluation_that_is_off_only_that() -> None:
    flat = Settings({"detect": {"epochs": 3}, "knn": {"enabled": False}}).flat()
    for name in ("detect", "knn"):
        assert {key: flat[key] for key in flat if key.split(".")[0] == name} == {f"{name}.enabled": False}
    assert flat["linear.epochs"] == 90


def test_left_out_sections_keys_and_null_ones_are_the_same() -> None:
    empty = Settings({})
    for raw in ({section: {} for section in SECTIONS if section != "seed"},
                {section: None for section in SECTIONS if section != "seed"},
                {"methods": dict.fromkeys(methods.names())}):  # fmt: skip
        settings = Settings(raw).validate()
        assert {**settings.flat(), "methods": {}} == {**empty.flat(), "methods": {}}
        for name in methods.names():
            assert settings.method_config(name) == empty.method_config(name)


@pytest.mark.parametrize("name", methods.names())
def test_a_methods_defaults_are_the_papers_or_those_for_small_data(name: str) -> None:
    kind = methods.find(name)

    def config(defaults: str, own: dict[str, Any]) -> Any:
        raw = {"pretrain": {"method": name, "defaults": defaults}, "methods": {name: own}}
        return Settings(raw).method

    assert config("paper", {}) == kind.Config.parse({})
    assert config("small", {}) == kind.Config.parse(kind.small)
    over = config("small", {"optimizer": {"lr": 0.125}})
    assert over.optimizer.lr == 0.125
    assert over.optimizer.name == kind.Config.parse(kind.small).optimizer.name


def test_every_section_is_an_attribute() -> None:
    settings = Settings({"transfer": {"test_fraction": 0.5}})
    for name in evals.names():
        assert type(getattr(settings, name)) is evals.config_of(name)
    for name, kind in OWNERS.items():
        assert type(getattr(settings, name)) is kind
    assert settings.transfer.test_fraction == 0.5
    assert settings.transfer is settings.transfer
    with pytest.raises(AttributeError, match="there is no section nothing"):
        settings.nothing  # noqa: B018


def test_a_part_is_a_section_a_key_or_what_is_said_of_the_method() -> None:
    settings = Settings(
        {"seed": 4, "pretrain": {"method": "byol"}, "methods": {"byol": {"momentum": 0.9}, "mae": {}}}
    )
    assert settings.part("seed") == 4
    assert settings.part("views.size") == 28
    assert settings.part("embed")["last_blocks"] == 1
    assert settings.part("method") == {"name": "byol", "defaults": "paper", "settings": {"momentum": 0.9}}
    assert settings.part("detect") == {"enabled": False}


def test_a_part_leaves_out_what_cannot_change_a_result() -> None:
    def part(pretrain: dict[str, Any]) -> Any:
        return Settings({"pretrain": pretrain}).part("pretrain")

    assert part({"checkpoint_seconds": 1, "launch": "slurm", "cluster": {"cpus": 2}}) == part({})
    assert part({"epochs": 1}) != part({})


def test_keys_may_be_set_that_the_file_does_not_have(tmp_path: Path) -> None:
    """As `dvc exp run -S` does: it adds to the file what it lacks."""
    ruamel = pytest.importorskip("ruamel.yaml")
    path, yaml = write(tmp_path, "seed: 0\nmethods: {}   # own\n# knn: {k: 5}\n"), ruamel.YAML()
    params = yaml.load(path)
    params["methods"]["simclr"] = {"temperature": 0.5}
    params["knn"] = {"k": 7}
    params["pretrain"] = {"defaults": "small"}
    yaml.dump(params, path)
    settings = load(path)
    assert settings.knn.k == 7
    assert settings.method.model_dump()["temperature"] == 0.5
    assert settings.method.model_dump()["projector_hidden"] == 256


def test_to_load_settings_takes_no_torch(tmp_path: Path) -> None:
    path = write(tmp_path, "pretrain: {defaults: small}\nmethods:\n  byol: {momentum: 0.9}\n")
    sections = [section for section in SECTIONS if section != "methods"]
    code = (
        f"import sys; from sslpipe.settings import load; s = load({str(path)!r}, sections={sections}); "
        "s.flat(); s.part('method'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sections_are_validated_only_when_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "pretrain: {epochs: many}\nseed: 3")
    assert load(path, sections=("seed", "data")).seed == 3
