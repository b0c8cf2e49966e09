from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import StartError
from serving.settings import Settings


def test_defaults_need_no_environment() -> None:
    assert Settings.from_environment({}) == Settings()


def test_every_field_is_read_from_its_variable() -> None:
    values = {
        "models": "elsewhere",
        "default_model": "a-b",
        "versions": "all",
        "provider": "cpu",
        "precision": "float32",
    }
    numbers = {spec.name: str(spec.metadata["low"]) for spec in fields(Settings) if "low" in spec.metadata}
    environment = {f"SHORTCUT_{name.upper()}": value for name, value in (values | numbers).items()}
    read = Settings.from_environment(environment)
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
    ],
)
def test_a_wrong_value_is_named_with_its_limits(name: str, value: str, told: str) -> None:
    with pytest.raises(StartError) as caught:
        Settings.from_environment({name: value})
    assert f"{name}={value}" in str(caught.value)
    assert told in str(caught.value)


@given(st.sampled_from([spec.name for spec in fields(Settings)]), st.text())
def test_any_text_is_a_setting_or_a_start_error(name: str, text: str) -> None:
    try:
        Settings.from_environment({f"SHORTCUT_{name.upper()}": text})
    except StartError as err:
        assert "SHORTCUT_" in str(err)
