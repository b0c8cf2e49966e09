"""The image as `bentoml containerize` makes it, built and run with podman: `make container-test`."""

import base64
import json
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from benchmarks.pictures import subject
from deploy import sbom
from tests.edge.test_draining import Balancer
from tests.fixtures import podman, toy
from tests.fixtures.pictures import colours, digit, encode
from tests.fixtures.podman import inside, running
from tests.fixtures.server import PYTHON, ROOT, Client, committed_artifacts, free_port, wait_until

pytestmark = pytest.mark.container
MAX_BYTES = 700_000_000
PATIENCE_SECONDS = podman.PATIENCE_SECONDS


@pytest.fixture(scope="module")
def image() -> None:
    podman.build_or_skip("bentofile.yaml", podman.IMAGE)


def own_models() -> int:
    """Bytes of the image that are models of whoever runs this."""
    committed = {artifact.resolve() for artifact in committed_artifacts()}
    own = [folder for folder in (ROOT / "models").glob("*/*") if folder.is_dir() and folder.resolve() not in committed]
    return sum(file.stat().st_size for folder in own for file in folder.rglob("*") if file.is_file())


def workers(client: Client) -> int:
    """That serve the default model."""
    lines = client.get("/metrics").body.decode().splitlines()
    found = [line for line in lines if line.startswith('shortcut_model_workers{model="digits_cnn-mnist"')]
    return round(sum(float(line.split()[-1]) for line in found))


@pytest.fixture(scope="module")
def container(image: None) -> Iterator[tuple[str, Client, float]]:
    """One on a read-only root."""
    with running("--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL", "--cpus", "2") as started:
        yield started


def test_it_is_small(container: tuple[str, Client, float], capsys: pytest.CaptureFixture[str]) -> None:
    name, _, seconds = container
    size = podman.size()
    script = "cat /proc/[0-9]*/status | grep VmRSS"
    memory = [int(line.split()[1]) / 1024 for line in inside(name, script).splitlines()]
    with capsys.disabled():
        print(f"\nimage: {size / 1e6:.0f} MB with all models; ready {seconds:.1f} s after `podman run`; ", end="")
        print(f"resident memory: {sum(memory):.0f} MiB in {len(memory)} processes, the largest {max(memory):.0f} MiB")
    assert size - own_models() < MAX_BYTES


@pytest.mark.parametrize("model", ["digits_cnn-mnist", "conv_resnet_deep-cifar10"])
def test_it_gives_the_answers_of_the_bare_runtime(container: tuple[str, Client, float], model: str) -> None:
    _, client, _ = container
    for picture in subject(ROOT / "models", model).small[:16]:
        answer = client.post(f"/classify?model={model}&top_k=1", picture.data)
        assert answer.status == 200, answer
        assert answer.json()["predictions"][0]["label"] == picture.label


def test_all_committed_models_are_in_it(container: tuple[str, Client, float]) -> None:
    served = {model["name"] for model in container[1].get("/models").json()["models"]}
    assert {artifact.parent.name for artifact in committed_artifacts()} <= served


def test_it_runs_as_nobody_special_on_a_root_that_takes_nothing(container: tuple[str, Client, float]) -> None:
    name = container[0]
    assert inside(name, "id -u") == "1034"
    script = (
        "for f in / /home/bentoml /home/bentoml/bento/src /app /etc; do touch $f/x 2>/dev/null && echo $f; done; true"
    )
    assert inside(name, script) == ""


def test_any_user_of_group_0_has_enough_with_700_mb(image: None, capsys: pytest.CaptureFixture[str]) -> None:
    """As OpenShift runs it, with one model and two workers; the kernel ends what takes more."""
    model = ROOT / "models" / "digits_cnn-mnist"
    options = ("--user", "12345:0", "--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL")
    limits = ("--memory", str(MAX_BYTES), "--memory-swap", str(MAX_BYTES))
    mounted = ("--volume", f"{model}:/models/digits_cnn-mnist:ro")
    settings = {"SHORTCUT_MODELS": "/models", "SHORTCUT_WORKERS": "2", "SHORTCUT_PROVIDER": "cpu"}
    pictures = subject(ROOT / "models", "digits_cnn-mnist").small
    with running(*options, *limits, *mounted, **settings) as (name, client, _):
        wait_until(lambda: workers(client) == 2, PATIENCE_SECONDS, lambda: podman.logs(name))
        assert inside(name, "id -u; id -g").split() == ["12345", "0"]
        with ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(lambda picture: client.post("/classify?top_k=1", picture.data), 10 * pictures))
        assert {answer.status for answer in answers} == {200}
        said = [answer.json()["predictions"][0]["label"] for answer in answers]
        assert said == 10 * [picture.label for picture in pictures]
        # Of each process its share of what several have: the sum is what the machine gives.
        rows = inside(name, "cat /proc/[0-9]*/smaps_rollup 2>/dev/null | grep ^Pss:").splitlines()
        taken = sum(int(row.split()[1]) for row in rows) * 1024
        assert json.loads(podman.podman("inspect", name))[0]["State"]["OOMKilled"] is False
        assert "for want of memory" not in podman.logs(name)
    with capsys.disabled():
        print(f"\nuser 12345, one model, two workers under load: {taken / 1e6:.0f} MB in {len(rows)} processes")
    assert taken < MAX_BYTES


def test_it_holds_nothing_that_serving_does_not_need(container: tuple[str, Client, float]) -> None:
    assert podman.superfluous(container[0]) == {}


def test_a_killed_worker_is_replaced(container: tuple[str, Client, float], capsys: pytest.CaptureFixture[str]) -> None:
    name, client, _ = container
    wait_until(lambda: workers(client) == 2, PATIENCE_SECONDS, lambda: podman.logs(name))
    children = inside(name, "cat /proc/1/task/1/children").split()
    victim = next(pid for pid in children if "worker" in inside(name, f"tr '\\0' ' ' < /proc/{pid}/cmdline"))
    inside(name, f"kill -9 {victim}")
    wait_until(lambda: workers(client) == 1, PATIENCE_SECONDS, lambda: "the dead worker still counts")
    assert client.get("/livez").status == 200
    took = wait_until(lambda: workers(client) == 2, PATIENCE_SECONDS, lambda: podman.logs(name))
    with capsys.disabled():
        print(f"\na killed worker was replaced within {took:.1f} s")


def test_sigterm_under_load_loses_nothing(image: None) -> None:
    picture = subject(ROOT / "models", "digits_cnn-mnist").small[0].data
    with running("--read-only", "--cpus", "2") as (name, client, _):
        wait_until(lambda: workers(client) == 2, PATIENCE_SECONDS, lambda: podman.logs(name))
        load = Balancer(client, 8 * ["/classify"], picture)
        time.sleep(1)
        podman.podman("kill", "--signal", "TERM", name)
        assert podman.podman("wait", name) == "0"
        load.join()
        assert load.lost == []
        assert {status for status, _ in load.answers} == {200}


def test_there_is_a_worker_for_each_core_of_the_cgroup(image: None) -> None:
    with running("--cpus", "1") as (name, client, _):
        assert "1 workers, 1 threads each" in podman.logs(name)
        assert client.get("/livez").status == 200


def test_a_demanded_gpu_that_is_not_there_ends_it(image: None) -> None:
    name = podman.podman(
        *("run", "--detach", "--env", "SHORTCUT_PROVIDER=cuda", "--env", f"PORT={free_port()}", podman.IMAGE)
    )
    try:
        assert podman.podman("wait", name) == "1"
        assert "error: SHORTCUT_PROVIDER=cuda" in podman.logs(name)
    finally:
        podman.podman("rm", "--force", name)


def test_the_health_check_of_compose_and_readme_works(container: tuple[str, Client, float]) -> None:
    name, client, _ = container
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    _, *command = compose["services"]["shortcut"]["healthcheck"]["test"]
    assert f'python -c \\"{command[2]}\\"' in (ROOT / "deploy" / "README.md").read_text()
    assert podman.podman("exec", name, *command[:2], command[2].replace("3000", str(client.port))) == ""


def test_it_serves_on_sagemaker_as_it_is(image: None, tmp_path: Path) -> None:
    """By the argument `serve`, on the port that is asked for, with what is mounted at /opt/ml/model."""
    version = toy.write_artifact(tmp_path)
    tmp_path.chmod(0o755)
    mounted = ("--volume", f"{version}:/opt/ml/model:ro", "--read-only")
    with running(*mounted, command=("serve",), port="SAGEMAKER_BIND_TO_PORT") as (_, client, _):
        assert (client.get("/ping").status, client.get("/ping").body) == (200, b"")
        picture = encode(colours())
        answer = client.post("/invocations", picture, "image/png").json()
        assert answer["model"] == "toy-colours"
        instances = {"instances": [{"b64": base64.b64encode(picture).decode()}] * 2}
        both = client.post("/invocations", json.dumps(instances).encode(), "application/json").json()
        assert [row["predictions"] for row in both["predictions"]] == [answer["predictions"]] * 2


def test_it_serves_on_vertex_ai_as_it_is(image: None) -> None:
    health, predict = "/v1/endpoints/7/deployedModels/9", "/v1/endpoints/7/deployedModels/9:predict"
    routes = {"AIP_HEALTH_ROUTE": health, "AIP_PREDICT_ROUTE": predict, "AIP_MODE": "PREDICTION"}
    with running(port="AIP_HTTP_PORT", **routes) as (_, client, _):
        assert client.get(health).status == 200
        seven = base64.b64encode(encode(digit("7"))).decode()
        body = {"instances": [{"b64": seven}] * 3, "parameters": {"top_k": 1}}
        answer = client.post(predict, json.dumps(body).encode(), "application/json").json()
        assert [row["predictions"][0]["label"] for row in answer["predictions"]] == ["7"] * 3


def test_a_volume_keeps_what_was_measured(image: None) -> None:
    volume = ("--volume", "shortcut-cache:/home/bentoml/.cache/shortcut")
    podman.podman("volume", "rm", "--force", "shortcut-cache")
    try:
        with running("--read-only", *volume) as (name, _, _):  # which measures behind what is served
            kept = "cat /home/bentoml/.cache/shortcut/providers.json 2>/dev/null || true"
            wait_until(lambda: inside(name, kept) != "", PATIENCE_SECONDS, lambda: podman.logs(name))
            written = inside(name, kept)
        with running("--read-only", *volume) as (name, _, _):
            now = json.loads(inside(name, kept))
            assert now | json.loads(written) == now  # not measured again
    finally:
        podman.podman("volume", "rm", "--force", "shortcut-cache")


def test_the_bento_says_what_is_in_it(image: None) -> None:
    (found,) = json.loads(podman.podman("image", "inspect", podman.IMAGE))
    assert found["Config"]["User"] == "bentoml"
    assert Path(found["Config"]["Entrypoint"][0]).name == "entrypoint.sh"


def test_its_bill_of_materials_names_what_it_holds(image: None) -> None:
    root = Path(podman.podman("image", "mount", podman.IMAGE))
    try:
        purls = [str(component.purl) for component in sbom.bill(root).components]
    finally:
        podman.podman("image", "unmount", podman.IMAGE)
    for start in ("pkg:pypi/bentoml@", "pkg:pypi/onnxruntime@", "pkg:generic/python@3.11", "pkg:deb/debian/libc6@"):
        assert any(purl.startswith(start) for purl in purls), start
    assert not [purl for purl in purls if "tensorflow" in purl or "/gcc@" in purl]


def test_what_the_gpu_image_needs_can_be_had_and_fits_together(tmp_path: Path) -> None:
    """pip resolves it with the hashes, against the index; nothing is installed."""
    report = tmp_path / "report.json"
    pip = (PYTHON, "-m", "pip", "install", "--quiet", "--dry-run", "--disable-pip-version-check", "--report", report)
    podman.run(*pip, "--require-hashes", "-r", "requirements/serving-gpu.txt")
    new = {package["metadata"]["name"] for package in json.loads(report.read_text())["install"]}
    if platform.machine() == "x86_64":
        assert {"onnxruntime-gpu", "nvidia-cudnn-cu13", "nvidia-cublas", "nvidia-cuda-runtime"} <= new
