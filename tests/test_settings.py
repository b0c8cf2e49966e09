from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import StartError
from serving.settings import Settings
from tests.fixtures.server import ROOT


def test_defaults_need_no_environment() -> None:
    assert Settings.from_environment({}) == replace(Settings(), models=ROOT / "models")  # wherever it is started


def test_every_field_is_read_from_its_variable() -> None:
    values = {
        "models": "elsewhere",
        "default_model": "a-b",
        "versions": "all",
        "provider": "cpu",
        "precision": "float32",
        "cache": "somewhere",
        "protocols": "all",
        "log_format": "json",
        "access_log": "on",
        "root_path": "/a/b-c",
        "shadow": "a-b:2@0.1",
        "unsure_pictures": "unsure",
    }
    hashes = ("0" * 64, "a" * 64)
    numbers = {spec.name: str(spec.metadata["low"]) for spec in fields(Settings) if "low" in spec.metadata}
    environment = {f"SHORTCUT_{name.upper()}": value for name, value in (values | numbers).items()}
    environment["SHORTCUT_CORS_ORIGINS"] = "https://a.example, http://b:8080,*"
    environment["SHORTCUT_API_KEYS"] = ", ".join(f"sha256:{h}" for h in hashes)
    read = Settings.from_environment(environment)
    assert read.api_keys == hashes
    assert read.cors_origins == ("https://a.example", "http://b:8080", "*")
    assert read.models == Path("elsewhere")
    for name, value in (values | numbers).items():
        assert str(getattr(read, name)) == value
    assert len(environment) == len(fields(Settings))


def test_an_empty_variable_means_the_default() -> None:
    assert Settings.from_environment({"SHORTCUT_QUEUE": " "}).queue == Settings().queue


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SHORTCUT_QUEUE", "many", "from 1 to 100000"),
        ("SHORTCUT_QUEUE", "0", "from 1 to 100000"),
        ("SHORTCUT_DEADLINE_MS", "-5", "whole number"),
        ("SHORTCUT_PROVIDER", "tpu", "auto, cuda, openvino, cpu"),
        ("SHORTCUT_PRECISION", "int8", "auto, float32"),
        ("SHORTCUT_ACCESS_LOG", "yes", "off, on, without_probes"),
        ("SHORTCUT_ROOT_PATH", "classifier", "begins with /"),
        ("SHORTCUT_ROOT_PATH", "/classifier/", "does not end with it"),
        ("SHORTCUT_ROOT_PATH", "/a b", "begins with /"),
    ],
)
def test_a_wrong_value_is_named_with_its_limits(name: str, value: str, told: str) -> None:
    with pytest.raises(StartError) as caught:
        Settings.from_environment({name: value})
    assert f"{name}={value}" in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize("value", ["secret", "sha256:abc", "sha256:" + "A" * 64, "sha256:" + "0" * 64 + ","])
def test_a_key_in_place_of_its_hash_is_refused_and_never_repeated(value: str) -> None:
    with pytest.raises(StartError, match=r"SHORTCUT_API_KEYS: .* python -m serving\.keys") as caught:
        Settings.from_environment({"SHORTCUT_API_KEYS": value})
    assert value not in str(caught.value)


def test_hashes_do_not_show_in_the_settings_text() -> None:
    assert "api_keys" not in repr(Settings(api_keys=("0" * 64,)))


@given(st.sampled_from([spec.name for spec in fields(Settings)]), st.text())
def test_any_text_is_a_setting_or_a_start_error(name: str, text: str) -> None:
    try:
        Settings.from_environment({f"SHORTCUT_{name.upper()}": text})
    except StartError as err:
        assert "SHORTCUT_" in str(err)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SHORTCUT_API_KEY", "SHORTCUT_API_KEYS"),
        ("SHORTCUT_MODEL", "SHORTCUT_MODELS"),
        ("SHORTCUT_Queue", "SHORTCUT_QUEUE"),
        ("SHORTCUT_DEADLINE", "SHORTCUT_DEADLINE_MS"),
        ("shortcut_api_keys", "SHORTCUT_API_KEYS"),
    ],
)
def test_a_misspelt_setting_is_refused_and_the_nearest_named(name: str, meant: str) -> None:
    with pytest.raises(StartError, match=f"^{name}: there is no such setting; did you mean {meant}\\?$"):
        Settings.from_environment({name: "sha256:" + "0" * 64})


def test_other_peoples_variables_are_left_alone() -> None:
    Settings.from_environment({"SHORTCUTS": "1", "MY_SHORTCUT_QUEUE": "x", "SHORTCUT_TEST_DATA": "folder"})


def test_a_path_may_begin_with_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somebody")
    assert Settings.from_environment({"SHORTCUT_MODELS": "~/models"}).models == Path("/somebody/models")


LINKS = {
    "SHORTCUT_SERVICE_HOST": "10.0.0.1",
    "SHORTCUT_SERVICE_PORT": "3000",
    "SHORTCUT_SERVICE_PORT_HTTP": "3000",
    "SHORTCUT_PORT": "tcp://10.0.0.1:3000",
    "SHORTCUT_PORT_3000_TCP": "tcp://10.0.0.1:3000",
    "SHORTCUT_PORT_3000_TCP_ADDR": "10.0.0.1",
    "SHORTCUT_GPU_SERVICE_HOST": "10.0.0.2",
    "SHORTCUT_GPU_PORT": "tcp://10.0.0.2:3000",
}


def test_what_kubernetes_sets_for_a_service_of_that_name_is_no_misspelt_setting() -> None:
    Settings.from_environment(LINKS)
    for name in ("SHORTCUT_PORT", "SHORTCUT_SERVICE_PORT"):  # alone, somebody means a setting by it
        with pytest.raises(StartError, match="there is no such setting"):
            Settings.from_environment({name: "3000"})


@pytest.mark.parametrize("origin", ["a.example", "https://a.example/", "https://a/b", "ftp://a", "https://a:b"])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(StartError, match=r"SHORTCUT_CORS_ORIGINS: .* is no origin: give scheme://host"):
        Settings.from_environment({"SHORTCUT_CORS_ORIGINS": f"https://good,{origin}"})
