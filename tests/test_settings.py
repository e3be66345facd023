from __future__ import annotations

from pathlib import Path

import pytest

from sslpipe.methods import names
from sslpipe.settings import Settings, SettingsError, load

ROOT = Path(__file__).parents[1]


def write(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text)
    return path


def test_params_yaml_is_valid_and_lists_every_method() -> None:
    # Whatever a user set in it: only DVC's need of a key for each method is checked.
    settings = load(ROOT / "params.yaml")
    assert set(settings.raw["methods"]) == set(names())


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
            "methods: {byol: {optimizer: {ratee: 1}}}",
            "methods.byol.optimizer: unknown key `ratee`; did you mean `rate`?",
        ),
        ("methods: {simclr: {temperature: 0}}", "methods.simclr.temperature: should be greater than 0"),
        ("data: {source: mnist}", "mnist5k"),
        ("data: {source: folder}", "root"),
        ("knn: {enabled: on}", 'knn.enabled: should be a valid boolean, not "on"'),
        ("pretrain: [1]", "pretrain: should be a section with keys"),
        ("seed: -1", "seed: should be a whole number"),
        ("seed: true", "seed: should be a whole number"),
        ("linear: {rates: [0.1, x]}", 'linear.rates: should be a valid number, not "x"'),
        ("finetune: {labels: some}", "finetune.labels"),
        ("just words", "should hold `key: value` sections"),
        ("a: [1", "line"),
        ("seed: 1\nseed: 2", "`seed` is given twice"),
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


def test_yaml_agrees_with_the_reader_dvc_uses(tmp_path: Path) -> None:
    ruamel = pytest.importorskip("ruamel.yaml")
    from sslpipe.core.yaml import read

    text = (
        "{a: 1e-3, b: on, c: yes, d: 0o17, e: 0x1f, f: ~, g: .inf, h: 1_000, i: 12:30, j: 2026-01-01, k: 010,"
        " l: 1., m: .5, n: +3, o: -1e5, p: 'x', q: NO, r: true, s: False, t: null, u: 1e3, v: '', w: [1, 2.0]}"
    )
    path = write(tmp_path, text)
    expected = dict(ruamel.YAML(typ="safe", pure=True).load(path))
    ours = read(path)
    for key, value in expected.items():
        if key in ("h", "j"):  # ruamel keeps 1.1's underscores and dates: in a params file both are mistakes
            assert ours[key] == ("1_000" if key == "h" else "2026-01-01")
        else:
            assert ours[key] == value, key
            assert type(ours[key]) is type(value), key


def test_nested_settings_may_be_given_in_part() -> None:
    settings = Settings({"methods": {"byol": {"optimizer": {"rate": 0.2}}}, "pretrain": {"method": "byol"}})
    assert settings.method.optimizer.rate == 0.2
    assert settings.method.optimizer.name == "lars"  # the paper's, not the generic default


def test_flat_leaves_out_tracking_and_other_methods() -> None:
    raw = {"seed": 1, "tracking": {"experiment": "x"}, "pretrain": {"method": "mae"},
           "methods": {"mae": {"mask_ratio": 0.5}, "byol": {"momentum": 0.9}}}  # fmt: skip
    assert Settings(raw).flat() == {"seed": 1, "pretrain.method": "mae", "methods.mae.mask_ratio": 0.5}


def test_sections_are_validated_only_when_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "pretrain: {epochs: many}\nseed: 3")
    assert load(path, sections=("seed", "data")).seed == 3
