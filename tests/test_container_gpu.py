"""The image for CUDA, built for real and, without a GPU, run as far as that goes: `make container-test-gpu`.

Convolution on a GPU is for `python -m benchmarks.gpu` to prove; *not run* so far.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.pictures import subject
from tests import podman
from tests.server import ROOT

pytestmark = pytest.mark.container_gpu
IMAGE = "localhost/shortcut-gpu:test"
MAX_BYTES = 3_500_000_000
LIBRARIES = """
cd /app/.venv/lib/python3.11/site-packages
export LD_LIBRARY_PATH=$(echo $PWD/nvidia/*/lib | tr ' ' ':')
ldd onnxruntime/capi/libonnxruntime_providers_cuda.so
"""


@pytest.fixture(scope="module", autouse=True)
def image() -> None:
    podman.build_or_skip("bentofile.gpu.yaml", IMAGE)


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    """On the CPU, by demand; its id."""
    with podman.running("--read-only", image=IMAGE, SHORTCUT_PROVIDER="cpu") as (name, client, _):
        picture = subject(ROOT / "models", "dense_resnet-mnist").small[0]
        answer = client.post("/classify?top_k=1", picture.data)
        assert answer.json()["predictions"][0]["label"] == picture.label
        yield name


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU here")
def test_without_a_gpu_it_refuses_to_start() -> None:
    name = podman.podman("run", "--detach", IMAGE)
    try:
        assert podman.podman("wait", name) == "1"
        assert "error: SHORTCUT_PROVIDER=cuda" in podman.logs(name)
        assert "no NVIDIA GPU was found" in podman.logs(name)
    finally:
        podman.podman("rm", "--force", name)


def test_its_size_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nimage: {podman.size(IMAGE) / 1e6:,.0f} MB with all models")
    assert podman.size(IMAGE) < MAX_BYTES


def test_only_the_driver_is_missing_which_the_host_brings(container: str) -> None:
    missing = re.findall(r"(\S+) => not found", podman.inside(container, LIBRARIES))
    assert missing == ["libcuda.so.1"]


def test_it_holds_nothing_that_serving_does_not_need(container: str) -> None:
    assert podman.superfluous(container) == {}
    assert podman.inside(container, "id -u") == "1034"
