"""The image for CUDA, built for real and, without a GPU, run as far as that goes: `make container-test-gpu`.

Convolution on a GPU is for `python -m benchmarks.gpu` to prove; *not run* so far.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.pictures import subject
from tests.fixtures import podman
from tests.fixtures.server import ROOT

pytestmark = pytest.mark.container_gpu
IMAGE = "localhost/shortcut-gpu:test"
MAX_BYTES = 3_500_000_000
LOADED = """
import ctypes, pathlib, onnxruntime
onnxruntime.preload_dlls()
print(*[line.split("/")[-1].strip() for line in open("/proc/self/maps") if "/nvidia/" in line and "r-xp" in line])
try:
    ctypes.CDLL(str(pathlib.Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"))
except OSError as err:
    print(err)
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
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), "no NVIDIA GPU was found"),
        (
            ("--device", "/dev/null:/dev/nvidia0"),
            "libcuda.so.1: cannot open shared object file",
        ),  # a GPU without driver
    ],
)
def test_without_a_gpu_it_refuses_to_start(options: tuple[str, ...], reason: str) -> None:
    name = podman.podman("run", "--detach", *options, IMAGE)
    try:
        assert podman.podman("wait", name) == "1"
        last = podman.logs(name).strip().splitlines()[-1]
        assert last.startswith("error: SHORTCUT_PROVIDER=cuda: ")
        assert reason in last
    finally:
        podman.podman("rm", "--force", name)


def test_its_size_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nimage: {podman.size(IMAGE) / 1e6:,.0f} MB with all models")
    assert podman.size(IMAGE) < MAX_BYTES


def test_cuda_and_cudnn_are_found_and_only_the_driver_is_missing_which_the_host_brings(container: str) -> None:
    loaded, missing = podman.podman("exec", container, "/app/.venv/bin/python", "-c", LOADED).splitlines()
    names = {name.split(".so")[0] for name in loaded.split()}
    assert {"libcudnn", "libcublas", "libcublasLt", "libcudart", "libcufft", "libcurand", "libnvrtc"} <= names
    assert missing.startswith("libcuda.so.1: cannot open")


def test_it_holds_nothing_that_serving_does_not_need(container: str) -> None:
    assert podman.superfluous(container) == {}
    assert podman.inside(container, "id -u") == "1034"
